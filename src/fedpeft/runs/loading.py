"""The Python that loads an exported adapter or a merged model, as its model card shows it."""

import json

from fedpeft.config import ModelConfig
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.kinds import find_kind

HEAD = "classifier.safetensors"  # the head of a merged encoder, beside its own files

_DECODER = """\
{imports}from transformers import AutoModelForCausalLM, AutoTokenizer

{names}
model = AutoModelForCausalLM.from_pretrained(BASE, dtype="{dtype}").eval()
{load}tokenizer = AutoTokenizer.from_pretrained(BASE)
"""

_ENCODER = """\
import torch
{imports}from transformers import AutoModel, AutoTokenizer

{names}


class Classifier(torch.nn.Module):
    \"\"\"The base model, {pooling} pooling and a linear head.\"\"\"

    def __init__(self, backbone, outputs):
        super().__init__()
        self.backbone, self.config = backbone, backbone.config
        self.classifier = torch.nn.Linear(self.config.get_text_config().hidden_size, outputs)

    def forward(self, input_ids, attention_mask):
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
{pool}
        return self.classifier(features.float())


model = Classifier(AutoModel.from_pretrained(BASE, dtype=torch.{dtype}), {outputs}).eval()
{load}tokenizer = AutoTokenizer.from_pretrained(BASE, padding_side="right")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
batch = tokenizer(["a text"], truncation=True, max_length={max_length}, padding=True, return_tensors="pt")
with torch.no_grad():
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
"""

# As `backbones.heads.pool` computes them, to the bit.
_POOL = {
    "mean": """\
        sums = torch.bmm(attention_mask.to(states.dtype).unsqueeze(1), states).squeeze(1)
        features = sums / attention_mask.sum(-1, keepdim=True).to(states.dtype)""",
    "cls": """\
        first = (attention_mask * torch.arange(attention_mask.shape[1], 0, -1)).argmax(-1)
        features = states[torch.arange(len(states)), first]""",
    "last": """\
        last = (attention_mask * torch.arange(1, attention_mask.shape[1] + 1)).argmax(-1)
        features = states[torch.arange(len(states)), last]""",
}


_LOAD_ADAPTER = "model = PeftModel.from_pretrained(model, ADAPTER).eval()\n"
_LOAD_HEAD = f'model.classifier.load_state_dict(load_file(f"{{BASE}}/{HEAD}"))\n'


def make_adapter_snippet(model: ModelConfig, task: TaskConfig, base: str, outputs: int, needs_fedpeft: bool) -> str:
    """Python that loads the adapter in the folder it is run in, with the libraries of Hugging Face.

    `base` is what the code names the base model, `outputs` the size of a classification head. It imports of fedpeft
    what registers the adapter's kind with PEFT, where `needs_fedpeft` says so, and else nothing.
    """
    register = "import fedpeft.adapters  # registers this kind of adapter with PEFT\n" if needs_fedpeft else ""
    names = f'BASE = {json.dumps(base)}  # the base model: a hub id or a folder\nADAPTER = "."  # this folder'
    return _fill(model, task, names, outputs, f"{register}from peft import PeftModel\n", _LOAD_ADAPTER)


def make_merged_snippet(model: ModelConfig, task: TaskConfig, outputs: int) -> str:
    """Python that loads the merged model in the folder it is run in, with transformers alone."""
    has_head = not find_kind(task.kind).is_decoder
    imports = "from safetensors.torch import load_file\n" * has_head
    return _fill(model, task, 'BASE = "."  # this folder', outputs, imports, _LOAD_HEAD * has_head)


def _fill(model: ModelConfig, task: TaskConfig, names: str, outputs: int, imports: str, load: str) -> str:
    if find_kind(task.kind).is_decoder:
        return _DECODER.format(imports=imports, names=names, dtype=model.dtype, load=load)
    return _ENCODER.format(
        imports=imports,
        names=names,
        dtype=model.dtype,
        pooling=model.pooling,
        pool=_POOL[model.pooling],
        outputs=outputs,
        max_length=model.max_length,
        load=load,
    )
