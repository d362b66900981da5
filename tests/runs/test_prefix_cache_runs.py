"""Whole runs with the frozen-prefix cache: the same bits whatever the workers; but for rounding those without it."""

import json

import pytest

from fedpeft.acceleration import PrefixCache
from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.runs.compare import compare
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec

UPPER = ["methods.fedit.adapter.layers=[1]", "methods.fedreft.adapter.layers=[1]", "methods.ditto.adapter.layers=[1]"]
CACHED = [*UPPER, "prefix_cache.limit_mib=4"]


def run(file, out, label, overrides):
    return start(RunSpec(load_experiment(file, overrides), label, 0, None, file.parent), out, RunCallback())


def scores(result):
    return [s["loss"] for which in result["test_by_client"].values() for s in which.values()]


@pytest.mark.parametrize("label", ["fedit", "fedreft", "ditto"])
def test_a_cached_run_gives_the_plain_runs_scores(experiment_file, tmp_path, label):
    plain = run(experiment_file, tmp_path / "plain", label, UPPER)
    one = run(experiment_file, tmp_path / "one", label, [*CACHED, "workers=1"])
    assert scores(one) == pytest.approx(scores(plain), rel=1e-3)
    for name, overrides in {"three": [*CACHED, "workers=3"], "small": [*UPPER, "prefix_cache.limit_mib=0.02"]}.items():
        if name == "three" or label == "fedreft":  # a full cache is filled before any method sees it
            assert scores(run(experiment_file, tmp_path / name, label, overrides)) == scores(one)


def test_one_cache_serves_all_runs_of_a_comparison_of_one_seed(experiment_file, tmp_path, monkeypatch):
    caches = []
    real = PrefixCache.__init__
    monkeypatch.setattr(PrefixCache, "__init__", lambda self, **a: (caches.append(self), real(self, **a))[1])
    compare(
        load_experiment(experiment_file, CACHED), ["fedit", "fedreft"], 2, tmp_path, tmp_path / "out", RunCallback()
    )
    assert len(caches) == 2
    rows = len(_texts(experiment_file))
    for cache in caches:
        # LoReFT's prefix is one block longer than LoRA's: two kinds of states
        assert 0 < cache.stats.computed <= 2 * rows
        assert cache.stats.looked_up > 5 * cache.stats.computed


def _texts(file):
    source = load_experiment(file).task.source
    return {json.loads(line)["text"] for line in open(source, encoding="utf-8")}


def test_a_folder_that_is_not_there_is_one_line(experiment_file, tmp_path):
    with pytest.raises(UserError, match="the folder does not exist"):
        run(experiment_file, tmp_path / "run", "fedit", [*CACHED, "prefix_cache.folder=/nowhere"])
