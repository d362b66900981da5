"""The one extension point: a federated fine-tuning method is what its paper says, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from peft import PeftConfig
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fedpeft.adapters import AdaptedModel
from fedpeft.errors import UserError
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig

State = TypeVar("State")
Layout = dict[str, tuple[torch.dtype, torch.Size]]


class MethodOptions(BaseModel):
    """What a user may set for any method; methods add their own fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    lr: float = Field(1e-3, gt=0, description="learning rate of the first round")
    levels: Literal["own", "lowest"] = Field(
        "own", description="where `resources` differ: each client at its own level, or all at the least of every lever"
    )


@dataclass(frozen=True)
class FederationInfo:
    """What the server knows before the first round: its clients, and the seeded start each of them derives."""

    clients: tuple[ClientSpec, ...]
    initial: Mapping[str, Tensors]  # by client id
    dimensions: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)  # by client, LoRA module:
    # (d_out, d_in) of the adapted layer

    def shared_initial_tensors(self) -> Tensors:
        """The start shared by all clients. Raises UserError when their adapters differ in layout."""
        first = self.initial[self.clients[0].id]
        for spec in self.clients:
            if layout(self.initial[spec.id]) != layout(first):
                raise UserError(
                    f"this method needs the same adapter at every client, but {self.clients[0].id!r} and {spec.id!r} "
                    "differ in rank, layers or density; give them one level, or set the method's `levels: lowest`"
                )
        return first


def layout(tensors: Tensors) -> Layout:
    """Names, dtypes and shapes: what a well-formed reply is checked against."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


class Method(ABC, Generic[State]):
    """A federated fine-tuning method.

    The server calls `start`, `send`, `expects`, `aggregate` and `admit`; the client calls `adapter`, `train` and
    `personal`.
    `State` is a frozen dataclass of tensors and plain values, so that checkpoint and resume need no code here.
    Most methods write `start`, `send`, `aggregate` and at most the two hooks `receive` and `reply`.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    uses_client_state: ClassVar[bool] = True  # whether a client's rounds read what its own last round trained
    pools_data: ClassVar[bool] = False  # train one client that holds everybody's rows (an upper reference)

    def __init__(self, options: Any) -> None:
        self.options = options

    # ---- what is trained

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        """The adapter this client trains on the backbone `model`. Default: as the options' `adapter` says, within the
        client's resources."""
        config: PeftConfig = self.options.adapter.make_config(model, client.resources)
        return config

    # ---- server side

    @abstractmethod
    def start(self, info: FederationInfo, seed: int) -> State:
        """The server's state before the first round."""

    @abstractmethod
    def send(self, state: State, client: ClientSpec) -> Tensors:
        """What the server sends to this client now."""

    def reply_layout(self, state: State, message: Message) -> Layout:
        """The layout of the reply to a message; replies of another layout are quarantined. Default: as sent."""
        return layout(message.tensors)

    def rejection_reason(self, state: State, reply: Reply) -> str | None:
        """Why a reply of the right layout is of no use all the same; None when it is. Default: None."""
        return None

    def update_baseline(self, state: State, message: Message, reply: Reply) -> Tensors:
        """What a reply's update is measured from; what is not in it counts from zero. Default: what was sent."""
        return message.tensors

    @abstractmethod
    def aggregate(self, state: State, replies: Sequence[Reply]) -> State:
        """The next state. `replies` come sorted by client id and passed the screen."""

    def add_client(self, state: State, reply: Reply) -> State:
        """The state when a newcomer has trained one round on what was sent to it. Must leave what everyone else is
        sent as it is. Default: nothing to learn of a newcomer."""
        return state

    # ---- client side

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        """Load what was sent into the model; returns scalars worth reporting. Must not change `client`."""
        model.write(message.tensors)
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        """The tensors that this round trains; the others keep what `receive` wrote. Default: all."""
        return model.names

    def penalty(self, model: AdaptedModel, message: Message, client: Client) -> Callable[[], Tensor] | None:
        """A term () added to the loss of every step, asked for after `receive`. Default: none."""
        return None

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        """What travels back after local training. Default: everything trained, in the tensors that the client keeps in
        `client.local.trained`, which nobody writes to."""
        kept = client.local.trained
        assert kept is not None  # `train` and `finish` set it first
        return {name: kept[name] for name in model.names}

    def train(
        self,
        model: AdaptedModel,
        message: Message,
        client: Client,
        training: TrainingConfig,
        shuffle: torch.Generator,
    ) -> Reply:
        """One local round: receive, train, reply. `client.local.trained` is set here.

        An engine may run many clients at once through `receive`, `trains`, `penalty`, `lr` and `finish` instead, for
        methods that leave this as it is."""
        reported = self.receive(model, message, client)
        names, penalty = self.trainable_names(model, message), self.penalty(model, message, client)
        loss = train_locally(LocalTrainer(model, client, names, self.lr(message, training), training, shuffle), penalty)
        return self.finish(model, message, client, loss, reported)

    def finish(
        self, model: AdaptedModel, message: Message, client: Client, loss: float, reported: dict[str, Scalar]
    ) -> Reply:
        """The end of a local round, for engines whose own loop trained the model: keeps what was trained, replies."""
        client.local.trained = model.snapshot()
        scalars = {"examples": client.spec.examples, "loss": loss, **reported}
        return Reply(message.client, message.round, self.reply(model, message, client), scalars)

    def lr(self, message: Message, training: TrainingConfig) -> float:
        """The learning rate of the message's round."""
        return self.options.lr * training.lr_decay ** (message.round - 1)

    def load_personal(self, model: AdaptedModel, message: Message, client: Client) -> None:
        """Load the model this client would deploy, given what the server would send it now. Default: `receive`."""
        self.receive(model, message, client)


def example_weights(replies: Sequence[Reply]) -> torch.Tensor:
    """The weights p_k = n_k / sum n over the round's replies, (clients,) float64."""
    counts = torch.tensor([float(reply.scalars["examples"]) for reply in replies], dtype=torch.float64)
    return counts / counts.sum()
