"""What the reader takes from YAML, and what it refuses with the line."""

import pytest

from fedpeft.config.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse_yaml, read_yaml
from fedpeft.errors import UserError


def test_plain_values_mean_what_yaml_says():
    text = "a: [1, 0x10, 1.5, .inf, yes, no, null, ~, '1', 1e-3]\nb: {c: text, d: 2024-01-31}\ne: |\n  two\n  lines\n"
    assert parse_yaml(text, "e") == {
        "a": [1, 16, 1.5, float("inf"), True, False, None, None, "1", "1e-3"],
        "b": {"c": "text", "d": "2024-01-31"},  # a date stays text
        "e": "two\nlines\n",
    }
    assert parse_yaml("", "e") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is here a second time; remove one of the two"),
        ("m:\n  x: 1\n  x: 1", "line 3: the key 'x' is here a second time"),
        ("a: &n [1]\nb: *n", "line 2: the alias *n is not read; write the value out"),
        ("a: !!int ''", "line 1: the tag tag:yaml.org,2002:int is not read"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !<!> x", "line 1: the tag ! is not read"),
        (f"\na: {'9' * 4400}", "line 2: '9999"),
        (f"a: {'1:' * 60}2", "is not a number that can be read; put it in quotes if it is text"),
        ("a: 0x_", "line 1: '0x_' is not a number"),
        ("1: a", "line 1: the key 1 is not text; put it in quotes"),
        ("yes: a", "line 1: the key True is not text"),
        ("? [a, b]\n: c", "line 1: the key ['a', 'b'] is not text"),
        ("<<: {a: 1}\n<<: {a: 1}", "line 2: the key '<<'"),  # no merging: an ordinary, unknown key
        ('a: "\\e[2J"', "line 1: '\\x1b[2J' holds a control character"),
        ('a: "\\ud800"', "line 1: '\\ud800' holds a control character"),
        ('a: "\\U00110000"', "not valid YAML"),
        ("%YAML " + "1" * 5000 + ".1\n--- a", "not valid YAML"),
        ("a: [1", "line 1: expected ',' or ']'"),
        ("a: 1\n--- \nb: 2", "line 2: but found another document"),
        ("a: b\x00", "not valid YAML"),
        ("[" * 500, f"line 1: nested more than {MAX_DEPTH} deep"),
        ("{a: " * 500, f"nested more than {MAX_DEPTH} deep"),
        ("[" + "1," * MAX_VALUES + "]", f"more than {MAX_VALUES:,} keys and values"),
    ],
)
def test_what_is_refused_is_one_line_with_its_place(text, said):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "e.yaml")
    assert str(caught.value).startswith("e.yaml: ") and said in str(caught.value)


def test_a_bomb_of_aliases_is_refused_at_its_first():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(UserError, match=r"line 2: the alias \*a"):
        parse_yaml("\n".join(lines), "e")


def test_a_depth_that_is_allowed_is_counted_by_branch():
    branch = "[" * (MAX_DEPTH - 3) + "]" * (MAX_DEPTH - 3)
    assert len(parse_yaml(f"a: [{', '.join([branch] * 5)}]", "e")["a"]) == 5


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: b\nname: caf\xe9")
    with pytest.raises(UserError, match=r"latin\.yaml: line 2 cannot be read as UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_text("a: " + "b" * MAX_BYTES)
    with pytest.raises(UserError, match=r"large\.yaml holds more than 1 MiB"):
        read_yaml(tmp_path / "large.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        read_yaml(tmp_path / ("a" * 300))
    (tmp_path / "good.yaml").write_text("\ufeffa: é")
    assert read_yaml(tmp_path / "good.yaml") == {"a": "é"}
