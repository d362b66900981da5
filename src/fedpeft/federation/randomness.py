"""Every random draw comes from a generator named by what it is for, never from a global one.

So the result does not depend on the order in which clients finish, on the number of workers, or on the engine.
"""

import hashlib

import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's seed and a purpose, e.g. `derived_seed(0, round, client, "shuffle")`."""
    text = "\x1f".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, *purpose))
