"""Fifty clients, three classes, Dirichlet 0.1, a fifth of them drawn in each round: what broke the published code."""

import json
import random

import pytest
from runs.test_runner import StoppingCallback, contents, settings

from fedpeft.runs.runner import resume, start

WORDS = {0: ["good", "great", "fine"], 1: ["bad", "poor", "dull"], 2: ["film", "book", "plane"]}


@pytest.fixture
def three_classes(tmp_path):
    draw = random.Random(0)
    rows = {}
    while len(rows) < 1500:
        label = draw.randrange(3)
        words = [draw.choice(WORDS[label]) for _ in range(3)] + [
            draw.choice(["the", "a", "was", "very", "it"]) for _ in range(5)
        ]
        draw.shuffle(words)
        rows[" ".join(words)] = {"text": " ".join(words), "label": label}
    file = tmp_path / "three.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows.values()))
    return file


@pytest.mark.parametrize("label", ["fedhft", "flora", "rolora"])
def test_fifty_clients_of_three_classes(experiment_file, three_classes, tmp_path, label):
    overrides = [
        f"task.source={three_classes}",
        "partition={kind: dirichlet, clients: 50, alpha: 0.1, min_size: 4}",
        "training={rounds: 4, batch_size: 4, participation: 0.2, evaluate_every: 0}",
    ]
    result = start(settings(experiment_file, label, overrides), tmp_path / "run", StoppingCallback())
    assert len(result["clients"]) == 50 and result["head_parameters"] == 3 * 33
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(sum(x["split"] == "train" and x["round"] == r for x in lines) == 10 for r in (1, 2, 3, 4))
    with pytest.raises(KeyboardInterrupt):
        start(settings(experiment_file, label, overrides), tmp_path / "broken", StoppingCallback(3))
    resume(tmp_path / "broken", StoppingCallback())
    assert contents(tmp_path / "broken") == contents(tmp_path / "run")
