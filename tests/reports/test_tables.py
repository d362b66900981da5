"""A table in each form: numbers as they are, names as text."""

import csv
import io
import json
import re

import pytest

from fedpeft.reports.tables import (
    MISSING,
    Column,
    MeanAndDeviation,
    Table,
    escape_latex,
    to_csv,
    to_html,
    to_json,
    to_latex,
    to_markdown,
)

HOSTILE = ['<img src=x onerror="alert(1)">', "</script><script>alert(1)</script>", "a & b", "50 % of #1_{x}", "~^\\"]
TABLE = Table(
    (Column("client"), Column("score", "%", 1, 100.0), Column("down", "MiB", 2, 1 / 1024**2, "bytes")),
    (("a", MeanAndDeviation(2 / 3, 0.05), 1048576), ("b", None, float("nan"))),
)


def test_csv_holds_numbers_as_they_are_in_the_results_with_the_deviation_beside():
    assert to_csv(TABLE) == ('client,score,"score, sd",down (bytes)\n' + f"a,{2 / 3!r},0.05,1048576\n" + "b,,,nan\n")


def test_json_holds_the_same_and_null_where_there_is_no_number():
    assert json.loads(to_json(TABLE))["rows"] == [["a", 2 / 3, 0.05, 1048576], ["b", None, None, None]]


def test_readers_see_units_scaled_and_rounded():
    html = to_html(TABLE, "scores")
    assert "66.7 ± 5.0" in html and ">1.00<" in html and f">{MISSING}<" in html
    assert '<span class="unit">%</span>' in html
    assert Column("x", digits=1).format(-1234.56) == "\u22121,234.6"
    assert Column("lr", digits=0, is_general=True).format(5e-4) == "0.0005"


@pytest.mark.parametrize("name", HOSTILE)
def test_html_shows_a_name_and_obeys_none(name):
    html = to_html(Table((Column(name),), ((name,),)), name)
    assert set(re.findall(r"<(\w+)", html)) == {"table", "caption", "thead", "tr", "th", "tbody"}


@pytest.mark.parametrize("name", [*HOSTILE, "=1+1", "@x", "-2", "two\nlines", 'quote"d', "a,b"])
def test_csv_reads_back_with_one_cell_per_name_that_is_no_formula(name):
    ((_,), (cell,)) = csv.reader(io.StringIO(to_csv(Table((Column("name"),), ((name,),)))))
    assert cell.lstrip("'") == name and cell[0] not in "=+-@"


@pytest.mark.parametrize("name", [*HOSTILE, "\\input{/etc/passwd}", "$x$", "a\nb", '"', "<|>"])
def test_latex_of_a_name_holds_no_command_but_those_for_its_characters(name):
    commands = r"\\text(backslash|asciitilde|asciicircum|less|greater|bar|quotedbl)\{\}"
    rest = re.sub(commands, "", escape_latex(name))
    rest = re.sub(r"\\[{}$&#_%]", "", rest)
    assert not set(rest) & set("\\{}$&#_%~^\n")


def test_latex_is_one_tabular_with_a_line_per_row():
    lines = to_latex(TABLE).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}" and lines[-1] == r"\end{tabular}"
    assert lines[4] == r"a & 66.7 $\pm$ 5.0 & 1.00 \\"
    assert [line.count("&") for line in lines if line.endswith(r"\\")] == [2, 2, 2]


@pytest.mark.parametrize("name", ["a|b", "*bold*", "`code`", "<b>", "two\nlines"])
def test_markdown_keeps_a_name_in_its_cell(name):
    line = to_markdown(Table((Column("name"), Column("n", digits=0)), ((name, 1),))).splitlines()[2]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3 and not re.search(r"(?<!\\)[*`<]", line)
