"""CSV by commas, semicolons or tabs: every record as wide as the header, or one line that says which is not."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.formats.csv_rows import read_csv
from fedpeft.tasks.limits import SizeLimit


def read(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    rows = read_csv(path, SizeLimit())
    return [(row["text"], row["label"]) for row in rows], [row["@where"].rpartition(":")[2] for row in rows]


@pytest.mark.parametrize(
    "content",
    [
        'text,label\n"one, two",a\n\nthree,b\n\n',  # empty lines
        '\r\ntext,label,\r\n"one, two",a,\r\nthree,b,\r\n',  # a spreadsheet's column without a name
        'text,label,,\n"one, two",a,,\nthree,b,,\n',
        "text;label\none, two;a\nthree;b\n",
        "text|label\none, two|a\nthree|b\n",
        "text\tlabel\none, two\ta\nthree\tb\n",
        '"te""xt";text;"label"\n;one, two;a\n;three;b\n',
        '\ufefftext,label\r"one, two",a\rthree,b\r',  # the ends of lines of an old spreadsheet
        'text,label\r"one, two",a\r\r\nthree,b\r\n',
        'label,text,a;b;c;d\na,"one, two",\nb,three,',  # a comma goes before other separators
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path, content):
    assert read(tmp_path, content)[0] == [("one, two", "a"), ("three", "b")]


def test_a_record_ends_at_its_line_only_and_is_where_it_begins(tmp_path):
    text = "one\u2028two\x85three\x0bfour"  # breaks to Unicode, not to CSV
    rows, lines = read(tmp_path, f'\ntext,label\n{text},a\n"five\nsix",b\nseven,c\n')
    assert rows == [(text, "a"), ("five\nsix", "b"), ("seven", "c")]
    assert lines == ["3", "4", "6"]


def test_a_text_may_be_of_any_length(tmp_path):
    assert read(tmp_path, f"text,label\n{'y' * 140_000},a\n")[0] == [("y" * 140_000, "a")]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("text,label\nx,1\none, two,0\n", r"a\.csv:3: 3 fields, the header has 2; quote texts that contain commas$"),
        (
            "text;label\nx;1\none; two;0\n",
            r"a\.csv:3: 3 fields, the header has 2; quote texts that contain semicolons$",
        ),
        ("text\tlabel\nx\n", r"a\.csv:2: 1 fields, the header has 2; quote texts that contain tabs$"),
        ('text,label\n"x,1\ny,0\n', r"a\.csv:2: not valid CSV \(unexpected end of data\); is every quote closed\?$"),
        ('text,label\nx,1\ny,"0\nz,1\n', r"a\.csv:3: not valid CSV \(unexpected end of data\)"),  # no label "0\nz,1"
        ('text,label\n"a \\"b\\" c",1\n', r"a\.csv:2: not valid CSV \(',' expected after '\"'\)"),
        ("text,label,text\nx,1,y\n", r"a\.csv:1: the header holds 'text' twice; rename one"),
    ],
)
def test_what_is_no_record_is_one_line(tmp_path, content, line):
    with pytest.raises(UserError, match=line):
        read(tmp_path, content)


def test_a_header_alone_has_no_rows(tmp_path):
    assert [read(tmp_path, content) for content in ("", "\n \n", "text,label\n")] == [([], [])] * 3
