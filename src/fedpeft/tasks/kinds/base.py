"""The contract of a kind of task: from a row to an example, to tokens, to losses, to scores, to predictions."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fedpeft.tasks.columns import read_text
from fedpeft.tasks.examples import ClientData, Example
from fedpeft.tasks.formats import Row
from fedpeft.tasks.labels import LabelIndex
from fedpeft.tasks.own_metrics import compute_own
from fedpeft.tasks.sources import Tables
from fedpeft.tasks.task import Task

if TYPE_CHECKING:  # the configuration asks the kinds what fits together
    from fedpeft.tasks.config import TaskConfig


class TaskKind(Task):
    """A kind of task. Class methods read an experiment's rows; an object is the task of one experiment's clients.

    To write one, add a file to `fedpeft/tasks/kinds/`; its name is the name of the kind. Derive from `EncoderKind`
    (`common/encoder.py`: a classification head on an encoder) or `DecoderKind` (`common/decoder.py`: a language model
    that learns to write a target), which leave this to do:

        class Ordinal(EncoderKind):
            metrics = ("mean_error",)  # the first is what tables show unless the task says otherwise

            @classmethod
            def list_answer_columns(cls, config):
                return (config.label,)

            @classmethod
            def make_example(cls, config, row, labels):
                return Example(*cls.read_texts(config, row), value=read_number(row, config.label))

            def losses(self, model, batch): ...    # (batch,), one for each example
            def scores(self, model, examples, padding): ...  # metrics, "loss" and "examples"
            def predict(self, model, examples, padding, **writing): ...

    The keys that an experiment may give a task are those of `TaskConfig`; `check_config` says which go together.
    """

    metrics: ClassVar[tuple[str, ...]]
    is_decoder: ClassVar[bool] = False  # whether it needs a language model; else an encoder with a head
    default_max_length: ClassVar[int] = 64  # tokens of an example, where the experiment does not say
    pair_is_optional: ClassVar[bool] = False  # whether a row may leave the second text empty
    finds_labels: ClassVar[bool] = False  # whether labels that the task does not name are those that its rows hold
    cut_loses: ClassVar[str] = "a text loses its end"  # what happens to an example that is too long

    def __init__(self, config: "TaskConfig", labels: Sequence[str], tokenizer: Any, max_length: int) -> None:
        self.config, self.labels, self.tokenizer, self.max_length = config, tuple(labels), tokenizer, max_length

    # ---- the experiment and its rows

    @classmethod
    def check_config(cls, config: "TaskConfig") -> None:
        """Raises ValueError where keys of the experiment do not go together."""

    @classmethod
    @abstractmethod
    def list_answer_columns(cls, config: "TaskConfig") -> tuple[str, ...]:
        """The columns that every row must have beside its texts."""

    @classmethod
    def list_labels(cls, config: "TaskConfig", tables: Tables) -> list[str]:
        """Names of the labels in the order of their indices, by which rows are dealt to clients. Raises UserError.

        Here a single one: rows are dealt without looking at what is to be predicted.
        """
        return [config.kind]

    @classmethod
    @abstractmethod
    def make_example(cls, config: "TaskConfig", row: Row, labels: LabelIndex) -> Example:
        """One row as an example. Raises UserError with the row's place (`row["@where"]`)."""

    @classmethod
    def read_texts(cls, config: "TaskConfig", row: Row) -> tuple[str, str | None]:
        """The row's text, and its second text where the task has pairs. Raises UserError."""
        text = read_text(row, config.text)
        if not config.text_pair or (cls.pair_is_optional and not row[config.text_pair]):
            return text, None
        return text, read_text(row, config.text_pair)

    @classmethod
    def check_clients(cls, clients: Sequence[ClientData], labels: Sequence[str]) -> None:
        """Raises UserError where the clients' examples cannot be learned or scored. Here nothing is asked of them."""

    @classmethod
    def find_problems(cls, labels: Sequence[str], counts: Sequence[int]) -> list[str]:
        """Lines on what looks wrong with the labels, of which `counts` are the rows. Here nothing."""
        return []

    # ---- the task of its clients: what else `Task` asks for is left to each kind

    def score_own(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """The score by the metric that a program registered, where the task's metric is one; else {}."""
        return {} if self.metric in self.metrics else compute_own(self.metric, predictions, references)

    @property
    def metric(self) -> str:
        return self.config.metric or self.metrics[0]
