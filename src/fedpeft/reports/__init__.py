"""Result files to a report that can be read, cited and sent to others: one HTML page that needs nothing else."""

from fedpeft.reports.score_table import write_table
from fedpeft.reports.write import write_report

__all__ = ["write_report", "write_table"]
