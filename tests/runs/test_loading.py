"""The Python of a model card, in a fresh process: the logits of the run's own model, to the bit."""

import json

import pytest
import torch
from helpers.exports import export
from helpers.fresh import compute_logits, read_code

from fedpeft.backbones.heads import pool
from fedpeft.callbacks import RunCallback
from fedpeft.config import ModelConfig, load_experiment
from fedpeft.runs.export import read_card
from fedpeft.runs.load_exported import load_exported
from fedpeft.runs.loading import make_adapter_snippet
from fedpeft.runs.merge import merge
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.config import TaskConfig

# Padding on the right, on the left and none at all, of words that both tiny models know.
BATCH = {
    "input_ids": torch.tensor([[2, 5, 7, 9, 3, 0, 0], [0, 2, 8, 9, 4, 11, 3], [2, 6, 7, 12, 13, 14, 3]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]),
}
PADDED = {name: tensor[::2] for name, tensor in BATCH.items()}  # as the code pads


def expected(run, client, batch):
    """What `predict` computes with."""
    model = load_exported(run, client, read_card(run, client)).model.model
    with torch.no_grad():
        return model(**batch).logits


@pytest.fixture
def decoder_run(tmp_path, tiny_decoder):
    """A run of one round of FedIT on a decoder, of two clients."""
    words = ["good", "great", "fine", "lovely", "superb", "bad", "poor", "awful", "dull", "broken"]
    rows = [
        {"text": f"{a} {b} {c} :", "answer": "yes" if a < b else "no", "site": "ab"[i % 2]}
        for i, (a, b, c) in enumerate((a, b, c) for a in words for b in words for c in words[:1])
    ]
    (tmp_path / "opinions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "name": "decoder",
        "model": {"name": str(tiny_decoder), "max_length": 24},
        "task": {"source": "opinions.jsonl", "kind": "multiple_choice", "choices": ["yes", "no"], "max_new_tokens": 4},
        "partition": {"kind": "natural", "column": "site"},
        "training": {"rounds": 1},
        "methods": {"fedit": {"lr": 1e-2}},
    }
    (tmp_path / "decoder.yaml").write_text(json.dumps(settings))
    experiment = load_experiment(tmp_path / "decoder.yaml", [])
    start(RunSpec(experiment, "fedit", 0, None, tmp_path), tmp_path / "decoder", RunCallback())
    return tmp_path / "decoder"


def test_lora_of_a_run_needs_no_fedpeft(exported, decoder_run, tiny_model, tiny_decoder, tmp_path):
    """Plain, with masked rows and with a frozen delta; a decoder through PEFT, and through transformers alone."""
    run, _ = exported
    folders = {name: run / "clients" / name / "adapter" for name in ("site0", "site1", "site2")}
    jobs = {name: (folder, read_code(folder, tiny_model)) for name, folder in folders.items()}
    decoder = decoder_run / "clients/a/adapter"
    jobs["decoder"] = (decoder, read_code(decoder, tiny_decoder))
    through_peft = "model = PeftModel.from_pretrained(model, ADAPTER).eval()"
    own_loader = jobs["decoder"][1].replace(through_peft, "model.load_adapter(ADAPTER)")
    assert "PeftModel.from" not in own_loader
    jobs["load_adapter"] = (decoder, own_loader)
    for source, client in ((run, "site1"), (decoder_run, "a")):
        folder = tmp_path / "merged" / client
        folder.parent.mkdir(exist_ok=True)
        merge(source, client, folder)
        jobs[f"merged {client}"] = (folder, read_code(folder, None))
    logits = compute_logits(jobs, PADDED, tmp_path, without_fedpeft=True)
    for name in folders:
        assert torch.equal(logits[name], expected(run, name, PADDED)), name
    of_decoder = expected(decoder_run, "a", PADDED)
    assert torch.equal(logits["decoder"], of_decoder)
    assert torch.equal(logits["load_adapter"], of_decoder)
    torch.testing.assert_close(logits["merged a"], of_decoder, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits["merged site1"], expected(run, "site1", PADDED), rtol=1e-3, atol=1e-4)


def test_loreft_of_a_run_loads_with_the_import_that_its_card_names(experiment_file, tiny_model, tmp_path):
    experiment = load_experiment(experiment_file, [])
    export(experiment, experiment.build_method("fedreft", None), tmp_path)
    folder = tmp_path / "clients/site1/adapter"
    code = read_code(folder, tiny_model)
    assert "import fedpeft.adapters" in code
    logits = compute_logits({"site1": (folder, code)}, PADDED, tmp_path, without_fedpeft=False)
    assert torch.equal(logits["site1"], expected(tmp_path, "site1", PADDED))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_the_code_pools_as_the_head_does(pooling):
    code = make_adapter_snippet(ModelConfig(name="x", pooling=pooling), TaskConfig(source="x"), "x", 2, False)
    states, mask = torch.randn(3, 7, 4), BATCH["attention_mask"]
    lines = [line.strip() for line in code.splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("states ="))
    last = lines.index("return self.classifier(features.float())")
    names = {"torch": torch, "states": states, "attention_mask": mask}
    exec("\n".join(lines[first + 1 : last]), names)
    assert torch.equal(names["features"], pool(states, mask, pooling))
