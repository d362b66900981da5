"""The bench runs every option on the experiment itself; what it advises can be written in the file."""

import pytest
import yaml
from rich.console import Console

from fedpeft.config import load_experiment
from fedpeft.display import bench_advice, bench_table
from fedpeft.runs.bench import TimedOption, bench


@pytest.fixture(scope="module")
def timed(request, tmp_path_factory, tiny_model, tiny_data):
    file = tmp_path_factory.mktemp("bench") / "experiment.yaml"
    settings = {
        "name": "tiny",
        "model": {"name": str(tiny_model), "max_length": 16},
        "task": {"source": str(tiny_data)},
        "partition": {"kind": "natural", "column": "site"},
        "methods": {"fedit": {"adapter": {"layers": [1]}}},
    }
    file.write_text(yaml.safe_dump(settings))
    said = []
    return file, bench(load_experiment(file), "fedit", file.parent, said.append, rounds=2), said


def test_every_option_ran_and_the_fastest_is_first(timed):
    _, found, said = timed
    assert {"1 worker", "prefix cache", "batched engine", "bfloat16 products"} <= {one.option for one in found}
    assert all(len(one.later) == 2 and min(one.first, *one.later) > 0 for one in found)
    assert [one.seconds for one in found] == sorted(one.seconds for one in found)
    assert len(said) == 3 * len(found)


def test_the_settings_shown_are_settings(timed):
    file, found, _ = timed
    console = Console(width=200, record=True)
    console.print(bench_table("fedit", found, "a machine"))
    text = console.export_text()
    assert "1.00x" in text and "prefix_cache: {}" in text and "model.autocast: bfloat16" in text
    experiment = load_experiment(file, ["prefix_cache={}", "engine=batched", "workers=2", "model.autocast=bfloat16"])
    assert experiment.prefix_cache is not None


def test_an_option_that_can_do_nothing_is_left_out(timed):
    file, found, _ = timed
    whole = load_experiment(file, ["methods.fedit.adapter.layers=all"])
    options = bench(whole, "fedit", file.parent, lambda line: None, rounds=1)
    assert "prefix cache" not in {one.option for one in options}
    assert "no prefix cache" in bench_advice(options) and "no prefix cache" not in bench_advice(found)


def test_the_advice_is_the_fastest_that_does_not_round(timed):
    plain = {"engine": "local", "workers": 1, "prefix_cache": None, "model.autocast": None}
    rounded = TimedOption("bf16", plain | {"model.autocast": "bfloat16"}, "rounded: compare the scores", 1.0, (1.0,))
    several = TimedOption("2 workers", plain | {"workers": 2}, "the same to the bit", 2.0, (2.0,))
    one = TimedOption("1 worker", plain, "exact", 3.0, (3.0,))
    assert bench_advice([rounded, several, one]).startswith(
        "choose workers: 2 (1.50x, results the same to the bit); or model.autocast: bfloat16 (3.00x, "
    )
    assert bench_advice([one, several]).startswith("choose workers: 1 (1.00x")
