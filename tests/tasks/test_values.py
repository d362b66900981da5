"""Foreign values in an error."""

import pytest

from fedpeft.tasks.values import has_control, quote


def test_any_value_is_shown_in_about_a_line():
    nested = []
    for _ in range(900):
        nested = [nested]
    for value in ("x" * 10**6, list(range(1000)), {str(i): i for i in range(1000)}, nested, b"x" * 10**5, 10**4000):
        assert len(quote(value)) < 200
    assert quote("a'\n\x1b") == '"a\'\\n\\x1b"'


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\x9b2J", "a\u2028b", "\ud800", "\x7f"])
def test_what_acts_on_a_terminal_is_control(text):
    assert has_control(text)


@pytest.mark.parametrize("text", ["a b", "Æ ø", "北京", "a\u200cb", "😀"])
def test_letters_of_any_script_are_not(text):
    assert not has_control(text)
