"""The one line of a user's mistake, whatever a stranger's file put into it."""

import pytest

from fedpeft.errors import LIMIT, NoQuorum, UserError, preview, printable, suggest


@pytest.mark.parametrize("kind", [UserError, NoQuorum])
@pytest.mark.parametrize(
    "text",
    [
        "two\nlines\r\nof text\n",
        "\x1b]0;title\x07\x1b[2Jcleared",
        "\u202egnp.exe",  # right to left
        "\x9b31m\x85\u2028",
        "\udcff a lone surrogate",
        "x" * 10**6,
        "\x1b" * 10**6,
        "",
    ],
)
def test_a_mistake_is_one_line_that_a_terminal_only_shows(kind, text):
    line = str(kind(text))
    assert line.isprintable() and len(line) <= LIMIT < 500
    line.encode()


def test_of_a_long_line_beginning_and_end_stay():
    line = str(UserError(f"begins {'x' * 5000} what to do"))
    assert line.startswith("begins xxx") and line.endswith("xxx what to do") and " ... " in line


def test_ordinary_text_is_left_as_it_is():
    text = "the folder '/a  b/ü' holds 'naïve 漢字'; give another"
    assert str(UserError(text)) == text
    assert printable("a\n  b\n\nc") == "a b c"
    assert printable("\x1b[31mred", 40) == "\\x1b[31mred"
    assert printable("abcdefghijklmnopqrstuvwxyz", 20) == "abcdefghi ... uvwxyz"


def test_a_near_name_is_suggested_and_a_far_one_is_not():
    assert suggest("fedti", ["fedit", "ifca"]) == ", did you mean 'fedit'?"
    assert suggest("zzz", ["fedit"]) == ""


def test_a_preview_shows_a_value_shortened_whatever_its_size():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert preview({"a": 1}) == "{'a': 1}" and preview("a") == "'a'"
    for value in (deep, ["x" * 10**6] * 10**3, {str(i): i for i in range(10**5)}, "\x1b" * 10**6):
        assert preview(value).isprintable() and len(preview(value)) <= 80
