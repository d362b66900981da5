"""Examples with what is to be predicted of them, and the clients that have them."""

from dataclasses import dataclass

SPLITS = ("train", "validation", "test")  # the fields of `ClientData` that hold examples


@dataclass(frozen=True)
class Example:
    """One text, or a pair, with the index of its label; for a decoder a prompt and what is to be written after it."""

    text: str
    label: int
    text_pair: str | None = None
    value: float = 0.0  # regression: what is predicted
    target: str | None = None  # decoders: the text learned after the prompt; None where there is none to learn
    answer: str = ""  # decoders: the right answer, short
    choices: tuple[str, ...] = ()  # multiple choice: what may stand where the answer stands


@dataclass(frozen=True)
class ClientData:
    """One client's examples, by split."""

    id: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True)
class FederatedData:
    """All clients by id, the names of the labels in the order of their indices, and what a reader should know."""

    clients: tuple[ClientData, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
