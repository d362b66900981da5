"""What a run saw: its clients' examples, the model's files and the tokenizer's, as short digests.

Another fingerprint is another run: its rounds and its table are never mixed with those of this one.
"""

import hashlib
from os.path import exists
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from pydantic import BaseModel, ConfigDict
from torch import nn

from fedpeft.backbones.locate import PACKAGE_PREFIX, find_package_model
from fedpeft.config import ModelConfig
from fedpeft.tasks.examples import SPLITS, FederatedData

_WEIGHTS = (".safetensors", ".bin", ".gguf")
_TOKENIZER = (".txt", ".model", ".jinja", "tokenizer.json", "vocab.json", "_tokens.json", "tokenizer_config.json")
_WHOLE = 256 << 20  # bytes; of a larger file evenly spaced parts are read, for the sake of a second or less [choice]
_PARTS = 64
_PART = 1 << 20


class ClientPrint(BaseModel):
    """One client's examples: how many by split, and their digest."""

    model_config = ConfigDict(strict=True)

    examples: dict[str, int]
    digest: str


class Fingerprint(BaseModel):
    """What a run saw; `model` and `tokenizer` are None where no file of theirs was found on this machine."""

    model_config = ConfigDict(strict=True)

    labels: list[str]
    clients: dict[str, ClientPrint]
    model: str | None
    tokenizer: str | None

    @property
    def digest(self) -> str:
        """All of it in short, for a checkpoint."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def find_difference(self, now: "Fingerprint") -> str:
        """The first thing that is not as it was, in words; "" where all is."""
        if self.labels != now.labels:
            return f"the labels were {', '.join(self.labels)} and are {', '.join(now.labels)}"
        for client in self.clients | now.clients:
            if client not in now.clients or client not in self.clients:
                return f"client {client!r} is {'new' if client in now.clients else 'gone'}"
            before, after = self.clients[client], now.clients[client]
            if before.examples != after.examples:
                return f"client {client!r} had {_count(before)} and has {_count(after)}"
            if before.digest != after.digest:
                return f"the examples of client {client!r} are others"
        return self.find_model_difference(now)

    def find_model_difference(self, now: "Fingerprint") -> str:
        """The same for model and tokenizer alone."""
        for what, old, new in (("model", self.model, now.model), ("tokenizer", self.tokenizer, now.tokenizer)):
            if None not in (old, new) and old != new:
                return f"the {what}'s files are others"
        return ""


def take_fingerprint(data: FederatedData, model: ModelConfig) -> Fingerprint:
    """The fingerprint of a run over these examples and the model that an experiment names, or a program gave."""
    clients = {}
    for client in data.clients:
        digest = hashlib.sha256()
        for split in SPLITS:
            digest.update(f"\n{split}\n".encode())
            for example in getattr(client, split):
                digest.update(repr(vars(example)).encode(errors="backslashreplace"))
        examples = {split: len(getattr(client, split)) for split in SPLITS}
        clients[client.id] = ClientPrint(examples=examples, digest=digest.hexdigest()[:32])
    if model.module:
        digests = _digest_module(model.module[0]), _digest_tokenizer(model.module[1])
        return Fingerprint(labels=list(data.labels), clients=clients, model=digests[0], tokenizer=digests[1])
    files = find_model_files(model.name)
    tokenizer = [file for file in files if file.name.endswith(_TOKENIZER)]
    others = [file for file in files if file not in tokenizer]
    return Fingerprint(
        labels=list(data.labels), clients=clients, model=_digest_files(others), tokenizer=_digest_files(tokenizer)
    )


def _digest_module(module: nn.Module) -> str:
    """Of a module's structure, names, shapes and values; of a large tensor evenly spaced values."""
    digest = hashlib.sha256(f"{module}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // _PART)
        digest.update(flat[::step].cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _digest_tokenizer(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    special = getattr(tokenizer, "special_tokens_map", {})
    return hashlib.sha256(f"{rules}{special}".encode()).hexdigest()[:32]


def find_model_files(name: str) -> list[Path]:
    """The files of a model and its tokenizer on this machine, sorted; none where it would have to be downloaded."""
    location = Path(name)
    if name.startswith(PACKAGE_PREFIX):
        location = find_package_model(name)
    elif not exists(location):
        try:
            config = try_to_load_from_cache(name, "config.json")
        except HFValidationError:  # no hub id either
            return []
        if not isinstance(config, str):
            return []
        location = Path(config).parent
    if location.is_file():
        return [location]
    return sorted(file for file in location.iterdir() if file.name.endswith((*_WEIGHTS, *_TOKENIZER, ".json")))


def _count(client: ClientPrint) -> str:
    return " + ".join(f"{count} {split}" for split, count in client.examples.items())


def _digest_files(files: list[Path]) -> str | None:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"\n{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
            else:
                for i in range(_PARTS):
                    file.seek(i * (size - _PART) // (_PARTS - 1))
                    digest.update(file.read(_PART))
    return digest.hexdigest()[:32] if files else None
