"""Any state as plain JSON plus named tensors and back, so that checkpoints need neither pickle nor code per method."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from fedpeft.federation.message import Tensors

_TENSOR, _TUPLE, _RECORD = "@tensor", "@tuple", "@record"
_ESCAPE = "\x1b"  # before a user's key that could be taken for one of those


def flatten(tree: Any) -> tuple[Any, Tensors]:
    """JSON-able structure and tensors of a tree of dataclasses, dicts (str keys), lists, tuples, tensors and scalars.

    The tensors are those of the tree where they can be, no copies: with many clients a state is large.
    Raises TypeError for anything else: a state must be plain values.
    """
    tensors: Tensors = {}
    seen: dict[int, str] = {}
    storages: set[int] = set()

    def separate(tensor: Tensor) -> Tensor:
        """The same values, copied only where another tensor lies in the same storage: such cannot be saved together."""
        values = tensor.detach().contiguous()
        storage = values.untyped_storage()
        if storage.nbytes() != values.nbytes or storage.data_ptr() in storages:
            values = values.clone()
        storages.add(values.untyped_storage().data_ptr())
        return values

    def pack(node: Any) -> Any:
        if isinstance(node, Tensor):
            if id(node) not in seen:  # a tensor held twice is written once
                seen[id(node)] = str(len(seen))
                tensors[seen[id(node)]] = separate(node)
            return {_TENSOR: seen[id(node)]}
        if is_dataclass(node) and not isinstance(node, type):
            return {_RECORD: {f.name: pack(getattr(node, f.name)) for f in fields(node)}}
        if isinstance(node, dict):
            return {_escape(key): pack(value) for key, value in node.items()}
        if isinstance(node, tuple):
            return {_TUPLE: [pack(value) for value in node]}
        if isinstance(node, list):
            return [pack(value) for value in node]
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise TypeError(f"A state holds tensors and plain values only. Received: {type(node).__name__}.")

    return pack(tree), tensors


def iterate_tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a tree as `flatten` takes it."""
    if isinstance(tree, Tensor):
        yield tree
    elif is_dataclass(tree) and not isinstance(tree, type):
        for field in fields(tree):
            yield from iterate_tensors(getattr(tree, field.name))
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from iterate_tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from iterate_tensors(value)


def unflatten(structure: Any, tensors: Tensors) -> Any:
    """The inverse of `flatten`; a dataclass comes back as the dict of its fields.

    Raises ValueError for a structure that `flatten` does not make, RecursionError for one that is nested too deeply.
    """
    if isinstance(structure, list):
        return [unflatten(value, tensors) for value in structure]
    if not isinstance(structure, dict):
        return structure
    if _TENSOR in structure:
        name = structure[_TENSOR]
        if not isinstance(name, str) or name not in tensors:
            raise ValueError(f"it lacks the tensor {name!r}")
        return tensors[name]
    if _TUPLE in structure:
        return tuple(unflatten(_require(list, structure[_TUPLE]), tensors))
    group = _require(dict, structure.get(_RECORD, structure))
    return {key.removeprefix(_ESCAPE): unflatten(value, tensors) for key, value in group.items()}


def _require(kind: type, group: Any) -> Any:
    if not isinstance(group, kind):
        raise ValueError(f"it holds a {type(group).__name__} in place of a {kind.__name__}")
    return group


def _escape(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"A state's dict has string keys. Received: {key!r}.")
    return _ESCAPE + key if key.startswith(("@", _ESCAPE)) else key  # a client may be called @tensor


def trees_equal(a: Any, b: Any) -> bool:
    """Whether two trees are equal to the bit."""
    (left, left_tensors), (right, right_tensors) = flatten(a), flatten(b)
    return left == right and all(torch.equal(left_tensors[k], right_tensors[k]) for k in left_tensors)
