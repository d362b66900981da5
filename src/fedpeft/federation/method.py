"""The contract of a method: what its paper says, and nothing of engines, checkpoints or networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import torch
from peft import PeftConfig
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fedpeft.adapters import AdaptedModel
from fedpeft.errors import UserError
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.deployment import ModelChoice
from fedpeft.federation.influence import scale_changes
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.resources import ClientResources

State = TypeVar("State")
Layout = dict[str, tuple[torch.dtype, torch.Size]]


class MethodOptions(BaseModel):
    """Options of every method; methods add their own fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    lr: float = Field(1e-3, gt=0, description="learning rate of the first round")
    levels: Literal["own", "lowest"] = Field(
        "own", description="where `resources` differ: each client at its own, or all at the least of every setting"
    )


@dataclass(frozen=True)
class FederationInfo:
    """What the server knows before the first round: its clients, and the seeded start that each of them derives."""

    clients: tuple[ClientSpec, ...]
    initial: Mapping[str, Tensors]  # by client id
    # (d_out, d_in) of every adapted layer, by client id and LoRA module; {} for adapters other than LoRA
    dimensions: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)

    def shared_initial_tensors(self) -> Tensors:
        """The start that all clients share. Raises UserError when their adapters differ in layout."""
        first = self.initial[self.clients[0].id]
        for spec in self.clients:
            if get_layout(self.initial[spec.id]) != get_layout(first):
                raise UserError(
                    f"this method needs the same adapter at every client, but {self.clients[0].id!r} and {spec.id!r} "
                    "differ in rank, layers or density; give them one level, or set the method's `levels: lowest`"
                )
        return first


def get_layout(tensors: Tensors) -> Layout:
    """Dtype and shape of every tensor by name, which a reply is checked against."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


class Method(ABC, Generic[State]):
    """A federated fine-tuning method.

    The server calls `start`, `send`, `reply_layout`, `rejection_reason`, `update_baseline`, `aggregate`, `add_client`
    and `reference_models`; the client calls `adapter`, `train` and `load_personal`. `State` is a frozen dataclass of
    tensors and plain values, so that checkpoint and resume need no code here. Most methods write `start`, `send`,
    `aggregate` and at most the two hooks `receive` and `reply`. A whole method, the unweighted mean of LoRA tensors:

        class PlainMeanOptions(MethodOptions):
            adapter: LoraOptions = Field(default_factory=LoraOptions, description="the LoRA that every client trains")

        @dataclass(frozen=True)
        class PlainMeanState:
            tensors: Tensors

        class PlainMean(Method[PlainMeanState]):
            Options = PlainMeanOptions

            def start(self, info: FederationInfo, seed: int) -> PlainMeanState:
                return PlainMeanState(info.shared_initial_tensors())

            def send(self, state: PlainMeanState, client: ClientSpec) -> Tensors:
                return state.tensors

            def aggregate(self, state: PlainMeanState, replies: Sequence[Reply]) -> PlainMeanState:
                return PlainMeanState(mean_tensors([reply.tensors for reply in replies]))

    As the file `fedpeft/methods/plain_mean.py` it is the method `plain_mean` of every experiment.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    model_choices: ClassVar[tuple[ModelChoice, ...]] = get_args(ModelChoice)  # what a client may deploy
    uses_client_state: ClassVar[bool] = True  # whether a client's rounds read what its own last round trained
    pools_data: ClassVar[bool] = False  # whether one client trains on everybody's examples (an upper reference)
    # Which settings of `ClientResources` its clients keep to. Those that make clients' adapters unlike are refused by
    # `FederationInfo.shared_initial_tensors` where the method takes its start from there.
    follows: ClassVar[frozenset[str]] = frozenset({"rank", "layers", "micro_batch", "checkpointing"})
    # What a client may report beside its tensors; a reply with another scalar, or one of another type, is quarantined.
    reply_scalars: ClassVar[Mapping[str, type]] = {"examples": int, "loss": float}

    def __init__(self, options: Any) -> None:
        self.options = options

    def list_ignored(self, resources: Iterable[ClientResources]) -> list[str]:
        """The settings that some client was given and that this method does not follow, sorted."""
        return sorted({name for own in resources for name in own.list_given()} - self.follows)

    # ---- what is trained

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        """The adapter that this client trains on the backbone `model`.

        Default: as the options' `adapter` says, within the client's resources.
        """
        config: PeftConfig = self.options.adapter.make_config(model, client.resources)
        return config

    # ---- server side

    @abstractmethod
    def start(self, info: FederationInfo, seed: int) -> State:
        """The server's state before the first round."""

    @abstractmethod
    def send(self, state: State, client: ClientSpec) -> Tensors:
        """The tensors that the server sends to this client now."""

    def reply_layout(self, state: State, message: Message) -> Layout:
        """The layout of the reply to a message; replies of another layout are quarantined. Default: that sent."""
        return get_layout(message.tensors)

    def rejection_reason(self, state: State, reply: Reply) -> str | None:
        """Reason to reject a well-formed reply, or None. Default: None."""
        return None

    def update_baseline(self, state: State, message: Message, reply: Reply) -> Tensors:
        """The tensors from which the norm of a reply's update is measured, zero for others. Default: those sent."""
        return message.tensors

    def measure_adapter(self, reply: Reply) -> tuple[float, int] | None:
        """How far a reply goes in the adapter, and how many values do; None, the default, for the change of its values.

        For a method whose clients start from an adapter drawn anew, of which only the products count.
        """
        return None

    def shrink_update(self, reply: Reply, baseline: Tensors, adapter: float, head: float) -> Tensors:
        """The reply's tensors with the change of the adapter and of the head times these factors, below 1.

        Called where an update goes too far beside the others'. Default: towards the baseline.
        """
        return scale_changes(reply.tensors, baseline, adapter, head)

    @abstractmethod
    def aggregate(self, state: State, replies: Sequence[Reply]) -> State:
        """The next state, from the round's usable replies sorted by client id."""

    def describe_clients(self, state: State) -> dict[str, dict[str, Scalar]]:
        """What the server knows of clients after a round, by client id, for the log and the report. Default: nothing.

        For what the server finds out, such as clusters; what a client reports of itself is in its reply's scalars.
        """
        return {}

    def add_client(self, state: State, reply: Reply) -> State:
        """The state after a joining client has trained one round on what was sent to it. Default: unchanged.

        What all other clients are sent must stay the same.
        """
        return state

    def reference_models(self, state: State) -> dict[str, Tensors]:
        """Other models worth scoring for a joining client, by name, each as it would be sent to it. Default: none."""
        return {}

    # ---- client side

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        """Loads what was sent into the model; returns scalars to report. Must not change `client`."""
        model.write(message.tensors)
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        """The names of the tensors that this round trains; the others keep what `receive` wrote. Default: all."""
        return model.names

    def penalty(self, model: AdaptedModel, message: Message, client: Client) -> Callable[[], Tensor] | None:
        """A function that returns a term () of every step's loss; called once, after `receive`. Default: none."""
        return None

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        """The tensors that travel back after local training. Default: all trained ones.

        They are those in `client.local.trained`, not copies: nobody writes to them.
        """
        trained = client.local.trained
        assert trained is not None  # `finish` sets it first
        return {name: trained[name] for name in model.names}

    def train(
        self,
        model: AdaptedModel,
        message: Message,
        client: Client,
        training: TrainingConfig,
        shuffle: torch.Generator,
    ) -> Reply:
        """One local round: receive, train, reply; sets `client.local.trained`.

        For methods that leave it as it is, an engine may train several clients together through `receive`,
        `trainable_names`, `penalty`, `lr` and `finish` instead.
        """
        scalars = self.receive(model, message, client)
        names, penalty = self.trainable_names(model, message), self.penalty(model, message, client)
        lr = self.lr(message, training)
        loss = train_locally(LocalTrainer(model, client, names, lr, training, shuffle, message.round), penalty)
        return self.finish(model, message, client, loss, scalars)

    def finish(
        self, model: AdaptedModel, message: Message, client: Client, loss: float, scalars: dict[str, Scalar]
    ) -> Reply:
        """The reply of a client whose model was trained, which it keeps; `scalars` are those of `receive`."""
        client.local.trained = model.snapshot()
        scalars = {"examples": client.spec.examples, "loss": loss, **scalars}
        return Reply(message.client, message.round, self.reply(model, message, client), scalars)

    def lr(self, message: Message, training: TrainingConfig) -> float:
        """The learning rate of the message's round, which the training's schedule then lowers step by step."""
        return self.options.lr * training.lr_decay ** (message.round - 1)

    def load_personal(self, model: AdaptedModel, message: Message, client: Client) -> None:
        """Loads the model that this client has of what the server would send now. Default: `receive`."""
        self.receive(model, message, client)


def example_weights(replies: Sequence[Reply]) -> Tensor:
    """The weights p_k = n_k / sum n, (clients,) float64, n_k the training examples of each reply's client."""
    counts = torch.tensor([float(reply.scalars["examples"]) for reply in replies], dtype=torch.float64)
    return counts / counts.sum()
