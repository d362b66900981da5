"""Adapters under the LM evaluation harness: answers scored with the prompt edited, as in training."""

import json

import pytest
import torch
from peft import get_peft_model

pytest.importorskip("lm_eval", reason="lm-eval is not installed (the eval extra)")

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from fedpeft.adapters import LoReftConfig, make_lora_config
from fedpeft.backbones import load_decoder
from fedpeft.errors import UserError
from fedpeft.lm_eval import AdaptedLM

ROWS = [
    {"question": "good great fine film", "choices": ["yes", "no no", "is answer yes"], "gold": 0},
    {"question": "bad", "choices": ["the film", "no", "yes yes yes yes"], "gold": 2},
    {"question": "we saw it today again very dull", "choices": ["no", "yes", "a"], "gold": 1},
]
TASK = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} answer :"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def adapter(tiny_decoder, tmp_path):
    """adapter("f2+l2") -> the folder of a LoReFT away from its start; adapter("lora") -> of a LoRA."""

    def build(kind):
        model, _ = load_decoder(str(tiny_decoder))
        torch.manual_seed(0)
        if kind == "lora":
            config = make_lora_config(model, r=2, alpha=4)
        else:
            config = LoReftConfig(r=3, positions=kind, task_type="CAUSAL_LM")
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad and "reft_R" not in name:
                    parameter.add_(torch.randn(parameter.shape))
        adapted.save_pretrained(str(tmp_path / "adapter"))
        return adapted.eval(), str(tmp_path / "adapter")

    return build


@pytest.fixture
def scores(tiny_decoder, tmp_path, monkeypatch):
    """scores(AdaptedLM, folder) -> the log-likelihood of every choice of every row, in padded batches of four."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    (tmp_path / "tiny.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))

    def evaluate(factory, folder):
        model = factory(pretrained=str(tiny_decoder), peft=folder, batch_size=4, device="cpu")
        tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
        out = simple_evaluate(model, tasks=["tiny_choices"], task_manager=tasks, bootstrap_iters=0)
        samples = sorted(out["samples"]["tiny_choices"], key=lambda sample: sample["doc_id"])
        return [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]

    return evaluate


def by_hand(model, tokenizer, row):
    """One choice at a time, unpadded."""
    prompt, found = tokenizer(f"{row['question']} answer :").input_ids, []
    for choice in row["choices"]:
        answer = tokenizer(choice).input_ids
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
        found.append(-float(loss) * len(answer))
    return found


@pytest.mark.parametrize("kind", ["f2+l2", "all", "lora"])
def test_likelihoods_of_the_answers_with_the_prompt_edited(kind, adapter, scores, tiny_decoder):
    model, folder = adapter(kind)
    _, tokenizer = load_decoder(str(tiny_decoder))
    expected = [by_hand(model, tokenizer, row) for row in ROWS]
    for got, wanted in zip(scores(AdaptedLM, folder), expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    plain = [score for row in scores(HFLM, folder) for score in row]
    flat = [score for row in expected for score in row]
    assert (plain == pytest.approx(flat, rel=1e-4, abs=1e-4)) == (kind == "lora")  # what the harness alone would say


def test_an_adapter_that_is_not_ours_is_refused_before_peft_reads_it(tiny_decoder, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "megatron_config": {"a": 1}}')
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        AdaptedLM(pretrained=str(tiny_decoder), peft=str(tmp_path), device="cpu")
