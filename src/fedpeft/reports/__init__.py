"""Result files to a report that can be read, cited and sent to others: one HTML page that needs nothing else."""

from fedpeft.reports.write import write_report

__all__ = ["write_report"]
