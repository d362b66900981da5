"""An inspection of data as lines of at most 80 columns that need no colour."""

from collections import Counter
from collections.abc import Iterator
from statistics import median

from rich import box
from rich.table import Table
from rich.text import Text

from fedpeft.display.labels import choose_evenly, make_bar
from fedpeft.tasks.inspect import WHOLE, Inspection, compute_skew, count_repetitions, get_quantile, make_histogram
from fedpeft.tasks.label_warnings import find_label_problems

_BAR = 40  # characters of the longest bar
_SHOWN = 12  # labels, and 3 pairs of clients, that a line names


def describe_inspection(inspection: Inspection, max_length: int | None = None) -> Iterator[str]:
    """Sizes, labels, skew, repetitions, lengths with a histogram, and what `max_length` would cut or should be."""
    sizes = sorted(inspection.sizes.values())
    yield (
        f"{len(inspection.samples):,} rows, {len(sizes):,} client{'s' * (len(sizes) > 1)}: "
        f"{sizes[0]:,} to {sizes[-1]:,} rows each, median {median(sizes):,.0f}"
    )
    yield from _describe_labels(inspection)
    yield from _describe_repetitions(inspection)
    yield from _describe_lengths(inspection, max_length)


def make_client_table(inspection: Inspection) -> Table:
    """Rows by client, and each client's labels as a bar of letters, the most frequent label of all first."""
    clients, more = choose_evenly(list(inspection.sizes.items()), lambda entry: entry[1])
    table = Table(title="Rows by client", caption=more, header_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("client", overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    labels = [name for name, _ in inspection.labels.most_common()]
    if labels:
        table.add_column("labels", no_wrap=True)
    for client, rows in clients:
        counts = inspection.labels_by_client.get(client, Counter())
        bar = [make_bar([counts.get(label, 0) / max(1, counts.total()) for label in labels])] if labels else []
        table.add_row(Text(client), f"{rows:,}", *bar)
    return table


def _describe_labels(inspection: Inspection) -> Iterator[str]:
    labels = inspection.labels
    if not labels:
        return
    shown = ", ".join(f"{name!r} {count:,}" for name, count in labels.most_common(_SHOWN))
    yield f"labels: {shown}" + f" and {len(labels) - _SHOWN:,} more" * (len(labels) > _SHOWN)
    if len(labels) == 1:
        yield "one label only: there is nothing to learn; name another column, or bring rows of other labels"
    yield from find_label_problems(labels)
    skew = compute_skew(inspection.labels_by_client)
    if skew is not None:
        yield f"skew: {skew:.2f}, the mean distance of two clients' labels (0: all alike, 1: no two share a label)"


def _describe_repetitions(inspection: Inspection) -> Iterator[str]:
    repetitions = count_repetitions(inspection.samples)
    if repetitions.within:
        yield f"repeated within a client: {repetitions.within:,} rows"
    if repetitions.across:
        pairs = ", ".join(f"{a} and {b} ({count:,})" for (a, b), count in repetitions.pairs[:3])
        yield f"texts that several clients have: {repetitions.across:,} rows; the most: {pairs}"
    if not repetitions.within and not repetitions.across:
        yield "no text stands twice"


def _describe_lengths(inspection: Inspection, max_length: int | None) -> Iterator[str]:
    lengths, unit = inspection.lengths, "words" if inspection.tokens is None else "tokens"
    quantiles = {
        name: get_quantile(lengths, value) for name, value in (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))
    }
    yield f"{unit}: " + ", ".join(f"{name} {value:,}" for name, value in quantiles.items()) + f", most {max(lengths):,}"
    bins = make_histogram(lengths)
    most = max(count for _, _, count in bins)
    width = max(len(f"{first:,}-{last:,}") for first, last, _ in bins)
    for first, last, count in bins:
        yield f"{f'{first:,}-{last:,}':<{width}}  {'#' * round(_BAR * count / most):<{_BAR}}  {count:,}"
    if max_length is not None:
        cut = inspection.count_longer(max_length)
        about = " at least, as a word is one token or more" * (inspection.tokens is None)
        yield f"max_length {max_length:,} cuts {cut:,} rows ({100 * cut / len(lengths):.1f} %){about}"
    keeps = f"keeps {100 * WHOLE:.0f} % of the rows whole"
    if inspection.tokens is None:
        keeps = f"should keep {100 * WHOLE:.0f} % of the rows whole (guessed from words; --model NAME counts tokens)"
    yield f"proposed: max_length: {inspection.proposed_length}, which {keeps}"
