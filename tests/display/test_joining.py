import io

from rich.console import Console

from fedpeft.display import make_joining_table


def test_models_stand_in_the_order_in_which_they_came():
    result = {
        "client": "late", "method": "fedreft", "metric": "accuracy", "epochs": 2,
        "rows": {"train": 8, "validation": 2, "test": 2},
        "test": {which: {"accuracy": score} for which, score in (("mean", 0.5), ("received", 0.25), ("alone", 0.75))},
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    console.print(make_joining_table(result))
    text = console.file.getvalue()
    assert "late joins fedreft (8 train, 2 validation, 2 test examples)" in " ".join(text.split())
    assert [line.split()[-1] for line in text.splitlines() if "." in line] == ["25.0", "75.0", "50.0"]
    assert "2 local epochs" in text and "server's answer" not in text
