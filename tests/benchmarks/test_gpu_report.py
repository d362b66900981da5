"""`benchmarks/gpu/run.sh` at a tiny size on the CPU: all its figures, so that it works when there is a GPU."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks/gpu"


@pytest.fixture
def script(monkeypatch):
    """The module of the script; it and its neighbours are forgotten after."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield import_module("gpu_report")
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def test_every_figure_is_measured_and_on_disk(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys.modules["throughput"], "CLIENTS", (1, 3))
    file = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--sizes", "tiny", "--no-tests", "--out", str(file)]
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", *arguments])
    script.main()
    figures = json.loads(capsys.readouterr().out)
    assert json.loads(file.read_text()) == figures
    cells = figures["throughput"]
    settings = [(cell["adapter"], cell["clients"], cell["engine"]) for cell in cells]
    assert settings == [(a, c, e) for a in ("lora", "loreft") for c in (1, 3) for e in ("local", "batched")]
    for cell in cells:
        assert cell["tokens"] > 8 * 12 * cell["clients"] and 0 < cell["fraction_of_matrix_rate"] < 1
        assert cell["tokens_per_second"] == pytest.approx(cell["tokens"] / cell["seconds"], rel=0.01)
        assert cell["peak_mib"] > 100
    assert len(figures["batched_to_local"]) == 4 and all(row["ratio"] > 0 for row in figures["batched_to_local"])
    cache = figures["prefix_cache"]
    assert cache["loss_with"] == pytest.approx(cache["loss_without"], rel=0.02) and "32 computed" in cache["cache"]
    assert all(own["equal_to_the_bit"] and own["on_the_cpu"] for own in figures["resume"].values())


def test_when_the_time_is_over_what_is_left_out_says_so(script):
    cells = list(sys.modules["throughput"].measure_all(["tiny", "1b"], "cpu", 1e9, until=0.0))
    assert cells == [{"size": size, "skipped": "no time was left"} for size in ("tiny", "1b")]


def test_sizes_are_what_their_names_say(script):
    random_llama = import_module("random_llama")
    for name, billions in (("1b", 1.04), ("3b", 2.92)):
        model = random_llama.make_model(random_llama.SIZES[name], "meta")
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_the_tests_outcome_is_counted(script, monkeypatch):
    output = "FAILED tests/x.py::test_y - boom\n1 failed, 30 passed, 2 skipped in 9.9s\n"
    done = subprocess.CompletedProcess([], 1, output, "")
    monkeypatch.setattr(script.subprocess, "run", lambda *a, **k: done)
    counts = {"failed": 1, "passed": 30, "skipped": 2}
    assert script.run_gpu_tests(9) == {"exit_code": 1, **counts, "failures": ["FAILED tests/x.py::test_y - boom"]}
    assert all((FOLDER.parents[1] / file).is_file() for file in script.GPU_TESTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py"])
    with pytest.raises(SystemExit, match="this torch sees no GPU; try the script with: --device cpu --sizes tiny"):
        script.main()


def test_the_shell_script_is_whole():
    assert subprocess.run(["bash", "-n", str(FOLDER / "run.sh")], check=False).returncode == 0
