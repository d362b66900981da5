"""The figures of a report, section by section."""

from fedpeft.reports.figures.base import Figure, Section
from fedpeft.reports.figures.clients import make_clients
from fedpeft.reports.figures.costs import make_costs
from fedpeft.reports.figures.differences import compare_with_best
from fedpeft.reports.figures.headline import make_headline
from fedpeft.reports.figures.rounds import make_rounds
from fedpeft.reports.records import ReportRecord

__all__ = ["Figure", "Section", "make_sections"]


def make_sections(record: ReportRecord) -> list[Section]:
    """All sections that have something to show, in the order in which a reader wants them."""
    from_best = compare_with_best(record)
    sections = [
        make_headline(record, from_best),
        make_rounds(record),
        make_costs(record, from_best),
        make_clients(record),
    ]
    return [section for section in sections if section.figures]
