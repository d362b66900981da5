"""Whole runs with one hostile client of five: what the logs say, and that the others go on."""

import json
from dataclasses import replace

import pytest
import torch

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.engines.local import LocalEngine
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec

FIVE = ["partition={kind: iid, clients: 5}", "training.rounds=2", "training.evaluate_every=0"]


@pytest.mark.parametrize("label", ["fedit", "fedhft", "fedreft"])
def test_a_client_that_overdoes_it_is_cut_down_and_one_that_sends_rubbish_is_left_out(
    experiment_file, tmp_path, monkeypatch, label
):
    real = LocalEngine.train

    def train(self, messages, *deadlines):
        sent = {message.client: message.tensors for message in messages}
        for outcome in real(self, messages, *deadlines):
            if outcome.client.endswith("4"):
                reply = outcome.reply
                if reply.round == 1:  # six times as far in the head
                    edited = {n: sent[outcome.client][n] + 6 * (t - sent[outcome.client][n]) if "classifier" in n else t
                              for n, t in reply.tensors.items()}  # fmt: skip
                    reply = replace(reply, tensors=edited)
                else:
                    reply = replace(reply, tensors={n: t.float() * torch.nan for n, t in reply.tensors.items()})
                outcome = replace(outcome, reply=reply)
            yield outcome

    monkeypatch.setattr(LocalEngine, "train", train)
    spec = RunSpec(load_experiment(experiment_file, FIVE), label, 0, None, tmp_path)
    result = start(spec, tmp_path / "run", RunCallback(), export=False)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    train_lines = [line for line in lines if line["split"] == "train"]
    assert result["quarantined"] == 1
    clipped = [(line["client"][-1], line["round"]) for line in train_lines if "clipped" in line]
    assert clipped == [("4", 1)]
    (left_out,) = (line for line in train_lines if "quarantined" in line)
    assert left_out["client"].endswith("4") and left_out["round"] == 2 and "failed" not in left_out
    assert "loss" not in left_out
