"""The bench runs every option on the experiment itself; what it advises can be written in the file."""

import pytest
import yaml
from rich.console import Console

from fedpeft.config import load_experiment
from fedpeft.display import describe_best_option, make_bench_table
from fedpeft.runs import bench as bench_module
from fedpeft.runs.bench import EngineOption, TimedOption, apply_option, bench, list_options

PLAIN = {"engine": "local", "workers": 1, "prefix_cache": None, "model.autocast": None}


@pytest.fixture(scope="module")
def file(tmp_path_factory, tiny_model, tiny_data):
    file = tmp_path_factory.mktemp("bench") / "experiment.yaml"
    settings = {
        "name": "tiny",
        "model": {"name": str(tiny_model), "max_length": 16},
        "task": {"source": str(tiny_data)},
        "partition": {"kind": "natural", "column": "site", "max_train": 8},
        "methods": {"fedit": {"adapter": {"layers": [1]}}},
    }
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What the bench of `timed` reports."""
    return []


@pytest.fixture(scope="module")
def timed(file, lines):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "default_workers", lambda model: 2)
        return bench(load_experiment(file), "fedit", file.parent, lines.append, rounds=2)


def make_timed(name, results, seconds, **overrides):
    return TimedOption(EngineOption(name, PLAIN | overrides, results), seconds, (seconds,))


def test_every_option_ran_and_the_fastest_is_first(timed):
    names = {row.option.name for row in timed}
    assert names == {"1 worker", "2 workers", "prefix cache", "batched engine", "bfloat16 products"}
    assert all(len(row.later) == 2 for row in timed)
    assert [row.seconds for row in timed] == sorted(row.seconds for row in timed)


def test_rounds_of_the_options_take_turns(timed, lines):
    names = [line.split(": ")[1] for line in lines]
    assert names == names[:5] * 3 and len(set(names)) == 5
    assert [line.split(":")[0] for line in lines[::5]] == ["round 1 of 3", "round 2 of 3", "round 3 of 3"]


def test_the_median_of_the_later_rounds_counts():
    option = EngineOption("1 worker", PLAIN, "exact")
    assert TimedOption(option, 99.0, (1.0, 5.0, 2.0)).seconds == 2.0


def test_what_the_table_shows_can_be_written_in_the_file(file, timed):
    console = Console(width=200, record=True)
    console.print(make_bench_table("fedit", timed, "a machine"))
    text = console.export_text()
    assert "1.00x" in text and "prefix_cache: {}" in text and "model.autocast: bfloat16" in text
    experiment = load_experiment(file, ["prefix_cache={}", "engine=batched", "workers=2", "model.autocast=bfloat16"])
    assert experiment.prefix_cache is not None


def test_an_option_that_can_do_nothing_is_left_out_and_its_engine_closed(file, timed, monkeypatch):
    cache = pytest.importorskip("fedpeft.acceleration.prefix_cache").PrefixCache
    closed = []
    assemble = bench_module.assemble

    def assemble_watched(*arguments):
        context = assemble(*arguments)
        close = context.engine.close
        context.engine.close = lambda: (closed.append(any(isinstance(a, cache) for a in arguments[-1])), close())
        return context

    monkeypatch.setattr(bench_module, "assemble", assemble_watched)
    whole = load_experiment(file, ["methods.fedit.adapter.layers=all"])
    options = bench(whole, "fedit", file.parent, lambda line: None, rounds=1)
    assert "prefix cache" not in {row.option.name for row in options}
    assert "no prefix cache" in describe_best_option(options) and "no prefix cache" not in describe_best_option(timed)
    assert sorted(closed) == [False] * len(options) + [True]


def test_options_lay_over_the_experiment_and_keep_its_own_cache(file, monkeypatch):
    monkeypatch.setattr(bench_module, "default_workers", lambda model: 3)
    experiment = load_experiment(file, ["prefix_cache={limit_mib: 7}", "engine=batched", "model.autocast=bfloat16"])
    changed = {option.name: apply_option(experiment, option) for option in list_options(experiment)}
    chosen = {
        name: (own.engine, own.workers, own.prefix_cache and own.prefix_cache.limit_mib, own.model.autocast)
        for name, own in changed.items()
    }
    assert chosen == {
        "1 worker": ("local", 1, None, None),
        "3 workers": ("local", 3, None, None),
        "prefix cache": ("local", 3, 7, None),
        "batched engine": ("batched", 3, None, None),
        "bfloat16 products": ("local", 3, None, "bfloat16"),
    }
    assert experiment.engine == "batched" and experiment.model.autocast == "bfloat16"  # itself as it was


def test_with_one_worker_there_is_no_option_of_several(file, monkeypatch):
    monkeypatch.setattr(bench_module, "default_workers", lambda model: 1)
    options = list(list_options(load_experiment(file)))
    assert len(options) == 4 and {option.overrides["workers"] for option in options} == {1}


def test_the_advice_is_the_fastest_that_does_not_round():
    rounded = make_timed("bf16", "rounded: compare the scores", 1.0, **{"model.autocast": "bfloat16"})
    several = make_timed("2 workers", "the same to the bit", 2.0, workers=2)
    plain = make_timed("1 worker", "exact", 3.0)
    assert describe_best_option([rounded, several, plain]).startswith(
        "choose workers: 2 (1.50x, results the same to the bit); or model.autocast: bfloat16 (3.00x, "
    )
    assert describe_best_option([plain, several]).startswith("choose workers: 1 (1.00x")
