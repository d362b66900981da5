"""Digests of all that decides what the frozen blocks of a model compute."""

import hashlib
import json
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from fedpeft.acceleration.forward_wrapper import get_original_attention
from fedpeft.acceleration.frozen_blocks import find_frozen_tensors


class PrefixIdentities:
    """Identifies frozen prefixes; the values of a tensor that clones share are read once. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests = WeakIdKeyDictionary()  # frozen tensor -> its version and the digest of its values

    def identify(self, model: nn.Module, count: int) -> bytes:
        """A digest of all that decides what the prefix computes; equal for copies of one backbone, shared or not."""
        digest = hashlib.blake2b(digest_size=32)
        config: Any = model.config
        settings = (count, get_original_attention(str(config._attn_implementation)), torch.get_num_threads())
        digest.update(json.dumps([config.to_dict(), settings], sort_keys=True, default=str).encode())
        for name, tensor in find_frozen_tensors(model, count):
            if tensor.requires_grad:
                raise ValueError(f"The parameters below a prefix cache are frozen. Received: {name} is trained")
            digest.update(self._digest(tensor))
        return digest.digest()

    def _digest(self, tensor: Tensor) -> bytes:
        """The digest of a tensor's values, computed once for all clones that share it."""
        with self._lock:
            known = self._digests.get(tensor)
            if known is None or known[0] != tensor._version:
                values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
                digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device.type}".encode())
                digest.update(values.numpy().data)
                known = self._digests[tensor] = (tensor._version, digest.digest())
            return known[1]
