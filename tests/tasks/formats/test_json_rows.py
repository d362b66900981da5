"""JSON lines and JSON arrays: objects of columns, or one line that says where they are not."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.formats.json_rows import read_json
from fedpeft.tasks.limits import SizeLimit


def read(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    return read_json(path, SizeLimit())


def test_lines_and_an_array_are_the_same_rows_at_their_places(tmp_path):
    lines = read(tmp_path, '\n{"a": 1}\n\n{"a": "\\ud83d\\ude00"}')
    array = read(tmp_path, '\n [{"a": 1},\n{"a": "😀"}]')
    assert [row["a"] for row in lines] == [row["a"] for row in array] == [1, "😀"]
    assert [row["@where"].removeprefix(f"{tmp_path}/") for row in lines] == ["a.json:2", "a.json:4"]
    assert [row["@where"].removeprefix(f"{tmp_path}/") for row in array] == ["a.json, row 1", "a.json, row 2"]
    assert read(tmp_path, "\n \n") == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"a": 1}\n{"a": \n', r"a\.json:2: not valid JSON \(.*\); expected one object of columns in each line"),
        ('{"a": 1}\n[1]\n', r"a\.json:2: expected an object of columns, received \[1\]$"),
        ('"text"\n', r"a\.json:1: expected an object of columns, received 'text'$"),
        ('[{"a": 1}, 3]', r"a\.json: expected objects of columns, received 3$"),
        ("[1", r"a\.json: not valid JSON"),
        ('{"a": ' + "1" * 5000 + "}", r"a\.json:1: not valid JSON \(Exceeds the limit"),
        ('{"a": ' + "[" * 5000, r"a\.json:1: lists or objects nested too deep; give plain columns$"),
        ("[" * 5000, r"a\.json: lists or objects nested too deep"),
        ("[" * 900 + "]" * 900, r"a\.json: expected objects of columns, received \[\[\[\.\.\.\]\]\]$"),
        ('{"a": [{"b": "\\ud800"}]}', r"a\.json:1: half of a character \('\\ud800'\), which is no text"),
        ('{"\\uDFFF": 1}', r"a\.json:1: half of a character"),
    ],
)
def test_what_is_no_row_is_one_line(tmp_path, content, line):
    with pytest.raises(UserError, match=line):
        read(tmp_path, content)
