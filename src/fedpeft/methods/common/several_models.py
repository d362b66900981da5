"""Several models in one message: the j-th one's tensors have names that begin with `<j>/`."""

from fedpeft.federation.message import Message, Tensors


def number_names(tensors: Tensors, j: int) -> Tensors:
    """The tensors by the names that they have as the j-th model's in a message."""
    return {f"{j}/{name}": tensor for name, tensor in tensors.items()}


def select_model(message: Message, j: int) -> Tensors:
    """The tensors of the j-th model in a message; {} where it has none."""
    prefix = f"{j}/"
    return {name.removeprefix(prefix): t for name, t in message.tensors.items() if name.startswith(prefix)}
