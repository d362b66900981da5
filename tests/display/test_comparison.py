"""The final tables: within 80 columns, no method's name cut, and who was left out is told."""

import io

import pytest
from rich.console import Console

from fedpeft.display import HEADINGS, format_cells, make_comparison_tables
from fedpeft.display.comparison import describe_differences, describe_left_out, describe_policy, list_resource_notes


def make_row(label, quarantined=0, **changes):
    def value(mean):
        return {"mean": mean, "sd": 0.1234}

    row = {
        "label": label, "metric": "accuracy", "lr": 0.0025, "deployed": value(0.6123), "worst_client": value(1.0),
        "received": value(0.6), "trained": value(0.6), "choices": {"received": 12, "trained": 36},
        "adapter_parameters": 123_456_789, "head_parameters": 123_456, "peak_memory_mib": 123456,
        "bytes_down": value(1e8), "bytes_up": value(1e8), "seconds": value(123_456), "quarantined": quarantined,
        "client_rounds": 48,
    }  # fmt: skip
    return row | changes


def show(*rows, width=80, runs=None, **other):
    console = Console(file=io.StringIO(), width=width)
    console.print(
        make_comparison_tables({"name": "tweets", "seeds": [0, 1], "rows": rows, "runs": runs or {}, **other})
    )
    return console.file.getvalue()


LEFT_OUT = {"fedit": [{"seed": 3, "rounds": 4, "left_out": {"site1": {"rounds": [1, 2], "reason": "NameError: x"}}}]}


def test_tables_fit_80_columns_and_cut_nothing():
    labels = ["fedit", "fedreft", "fedavg_loreft", "a-label-of-forty-letters-that-somebody-ga"]
    text = show(*(make_row(label, 12) for label in labels))
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    words = text.replace("\n", " ")
    for shown in ("fedit ", "fedreft ", "fedavg_loreft ", "61.2 ± 12.3", "100.0 ± 12.3", "123,456,789", "12/48"):
        assert text.count(shown) >= 1, shown
    assert "".join(part for part in words.split() if part in labels[3]).count(labels[3]) == 3  # folded, not cut
    assert "tweets: deployed, test accuracy, last round, 2 seeds" in text


def test_who_was_left_out_stands_in_the_table_the_caption_and_the_lines_below():
    text = " ".join(show(make_row("fedit", 12), make_row("local"), runs=LEFT_OUT).split())
    assert "left out" in text and "12/48" in text and "0/48" in text
    assert "left out: replies that did not come or could not be used, of all" in text
    assert "fedit, seed 3: client site1 left out of 2 of 4 rounds: NameError: x" in text


def test_how_many_clients_deploy_what_they_trained_stands_beside_the_score_and_the_candidates_below():
    text = show(make_row("fedit"))
    assert "36/48" in text and "what clients chose from" in text
    assert "what clients chose from" not in show(make_row("fedit", trained=None))


def test_in_rows_of_earlier_versions_every_client_deployed_what_it_received():
    row = make_row("fedit")
    row["personal"] = row.pop("deployed")
    del row["received"], row["choices"]
    assert format_cells(row)[2:7] == ["61.2 ± 12.3", "100.0 ± 12.3", "-", "61.2 ± 12.3", "60.0 ± 12.3"]


def test_where_nobody_was_left_out_nothing_is_said_of_it():
    assert "left out" not in show(make_row("fedit"), runs={"fedit": [{"seed": 0, "rounds": 4, "left_out": {}}]})


def test_results_of_earlier_versions_count_without_a_total():
    text = show(make_row("fedit", 3, client_rounds=0), runs={"fedit": [{"seed": 0, "rounds": 4}]})
    assert "left out" in text and " 3 " in text and "3/" not in text


def test_of_many_left_out_the_first_are_named():
    clients = {f"site{i}": {"rounds": [1], "reason": "late"} for i in range(500)}
    lines = describe_left_out({"fedit": [{"seed": 0, "rounds": 4, "left_out": clients}]})
    assert len(lines) == 11 and lines[-1] == "and 490 more; each run's metrics.jsonl has all"


def test_one_seed_has_no_spread_and_a_method_that_trains_nothing_no_rate():
    one = {"mean": 0.5, "sd": None}
    row = make_row("zero_shot", deployed=one, trained=None, choices={}, adapter_parameters=0, head_parameters=0)
    assert format_cells(row)[1:7] == ["-", "50.0", "100.0 ± 12.3", "-", "60.0 ± 12.3", "-"]
    assert len(format_cells(row)) == len(HEADINGS)


@pytest.mark.parametrize("width", [80, 140])
def test_a_name_in_square_brackets_is_text(width):
    assert "[red]a[/red]" in show(make_row("[red]a[/red]"), width=width)


def test_the_best_mean_is_told_apart_or_not_from_every_other_one():
    means = {"a": 0.5, "b": 0.6, "c": 0.4}
    rows = [make_row(label, deployed={"mean": mean, "sd": None}) for label, mean in means.items()]
    numbers = {"seeds": 5, "pairs": 40}
    differences = [
        {"first": "a", "second": "b", "mean": -0.1, "low": -0.2, "high": 0.01, "crosses_zero": True, **numbers},
        {"first": "a", "second": "c", "mean": 0.1, "low": 0.0, "high": 0.2, "crosses_zero": True, **numbers},
        {"first": "b", "second": "c", "mean": 0.2, "low": 0.15, "high": 0.25, "crosses_zero": False, **numbers},
    ]
    assert describe_differences(rows, differences)[1:] == [
        "  b - a: +10.0 [-1.0, 20.0], 5 seeds; not told apart: the interval crosses zero",
        "  b - c: +20.0 [15.0, 25.0], 5 seeds",
    ]
    assert "b - c: +20.0" in show(*rows, differences=differences)
    assert "One seed" in describe_differences(rows, [differences[2] | {"seeds": 1}])[-1]
    assert describe_differences(rows, []) == []


def test_what_a_score_costs_stands_below_where_methods_are_compared():
    cost = {"seeds": 2, "reached": 1, "round": 3.0, "bytes": 2**20, "client_seconds": 12.5, "peak_memory_mib": None}
    costs = {"a": {"score": 0.7, "methods": {"a": cost, "b": cost}}}
    rows = [make_row("a"), make_row("b")]
    text = show(*rows, cost_to_target=costs, accuracy_bytes_front=["b"])
    assert "cost until a validation score of 70.0 %" in text and "as few bytes: b" in text
    assert "cost until" not in show(rows[0], cost_to_target=costs)


def test_a_scenario_stands_in_the_title():
    assert "tweets, four-levels: deployed" in show(make_row("fedit"), scenario="four-levels")


def test_who_was_asked_again_and_who_sat_out_is_a_line_each():
    run = {"seed": 0, "rounds": 9, "retried": 2, "excluded": {"a": [[3, 5], [8, 8]], "b": [[9, 9]]}}
    assert describe_policy({"fedit": [run, {"seed": 1, "retried": 0, "excluded": {}}, {"seed": 2}]}) == [
        "fedit, seed 0: clients without a reply were asked again 2x",
        "fedit, seed 0: client a excluded in rounds 3-5, 8",
        "fedit, seed 0: client b excluded in rounds 9",
    ]
    assert "client b excluded in rounds 9" in show(make_row("fedit"), runs={"fedit": [run]})
    many = {f"site{i:02d}": [[1, 2]] for i in range(20)}
    assert len(describe_policy({"fedit": [run | {"excluded": many}]})) == 11


def test_what_a_method_does_not_follow_of_the_resources_is_a_line_and_other_notes_are_not():
    note = "FedReft does not follow rank of `resources`"
    runs = {"fedreft": [{"notes": ["3 rows are cut", note]}, {"notes": [note]}], "fedit": [{"notes": []}, {}]}
    assert list_resource_notes(runs) == [f"fedreft: {note}"]
