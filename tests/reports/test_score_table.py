"""The table to cite, of one or several runs and comparisons."""

import csv
import io
import re

import pytest
from helpers.mistakes import require_line
from helpers.result_files import make_result, write_comparison, write_run

from fedpeft.reports import write_table

CLIENTS = ["a", "b"]


@pytest.fixture
def runs(tmp_path):
    """Makes a run's folder: a label, a seed, and what is unlike others."""

    def make(label, seed, clients=CLIENTS, **changes):
        return write_run(
            tmp_path / f"{label}-{seed}-{len(changes)}", make_result(label, seed, clients, 2, **changes), []
        )

    return make


def read(text):
    return list(csv.reader(io.StringIO(text)))


def test_runs_of_one_method_that_differ_by_the_seed_are_one_row(runs):
    head, fedit, local = read(write_table([runs("fedit", 0), runs("local", 0), runs("fedit", 1)], "csv"))
    assert (fedit[0], fedit[2], local[0], local[2]) == ("fedit", "2", "local", "1")
    scores = [make_result("fedit", s, CLIENTS, 2)["test"]["deployed"]["by_client"] for s in range(2)]
    assert float(fedit[head.index("deployed")]) == pytest.approx(sum(scores) / 2)


def test_a_row_for_each_client(runs):
    table = read(write_table([runs("fedit", 0), runs("local", 0)], "csv", per_client=True))
    assert table[0] == ["client", "fedit", "local"] and [row[0] for row in table[1:]] == CLIENTS
    assert float(table[2][1]) == make_result("fedit", 0, CLIENTS, 2)["test_by_client"]["deployed"]["b"]["accuracy"]


def test_latex_is_a_whole_tabular_whose_rows_have_a_cell_for_each_column(tmp_path):
    (tmp_path / "c").mkdir()
    write_comparison(tmp_path / "c", ["fedit", "a_b%&#$~^"], 2, CLIENTS, 2)
    text = write_table([tmp_path / "c"], "latex")
    alignment = re.match(r"\\begin\{tabular\}\{([lr]+)\}\n", text)[1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3 and all(len(re.findall(r"(?<!\\)&", row)) == len(alignment) - 1 for row in rows)
    assert text.endswith("\\end{tabular}\n") and text.count("{") == text.count("}") and r"a\_b\%\&\#\$" in text
    assert not re.search(r"(?<!\\)[%#_~^]", text)


def test_markdown_has_a_rule_of_as_many_cells(runs):
    head, rule, row = write_table([runs("fedit", 0)], "markdown").splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")


def test_what_does_not_go_into_one_table_is_one_line(runs, tmp_path):
    fedit = runs("fedit", 0)
    require_line(
        lambda: write_table([fedit], "latx"), "--format: use one of csv, latex, markdown", "did you mean 'latex'?"
    )
    require_line(lambda: write_table([fedit, fedit], "csv"), "fedit with seed 0 is given twice")
    require_line(lambda: write_table([fedit, runs("local", 0, metric="f1")], "csv"), "f1", "accuracy", "make two")
    require_line(lambda: write_table([fedit, runs("local", 1, ["c"], notes=["x"])], "csv"), "have other clients")
    unfinished = write_run(tmp_path / "u", make_result("fedit", 2, CLIENTS, 2), [], finished=False)
    require_line(lambda: write_table([unfinished], "csv"), "no run is finished yet")
    require_line(lambda: write_table([tmp_path / "none"], "csv"), "no run and no comparison")
