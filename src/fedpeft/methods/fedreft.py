"""FedReFT: representation fine-tuning with All-But-Me aggregation. Siddika, Hossen et al., arXiv 2508.20295.

The paper's: clients train LoReFT interventions (R, W, b all travel); for each client k the server takes the
geometric median of *the other* clients' parameters, and the client partially incorporates it,

    z_k   = argmin_z sum_{j != k} || z - phi_j ||_2          phi_k <- (1 - lambda_k) phi_k + lambda_k z_k.

Derived: averages leave the Stiefel manifold, so every R is replaced by its polar factor after each aggregation and
each mixing step; with three clients the median of the two others is their mean.
Ours [choice], where the paper is silent: one median per intervention and one for the head; equal weights of clients;
`mixing="validation"` picks lambda_k on the client's own held-out examples, after the paper's idea of adapting at test
time; `head_mixing_weight` is a lambda of the head alone; `align` turns every client to a common gauge first, because
(QR, QW, Qb) is the same intervention for every orthogonal Q; `abm="similarity"` weighs the others, intervention by
intervention, by their likeness to the client; a client that was not drawn is remembered as it last was; what it deploys
is phi_k after the last mixing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedpeft.adapters import AdaptedModel, ReftOptions, find_interventions, is_head
from fedpeft.aggregation import (
    align,
    combine,
    geometric_median_mix,
    gram,
    leave_one_out_mean_mix,
    leave_one_out_median_mix,
    leave_one_out_similarity_mix,
    mean_tensors,
)
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Method, MethodOptions
from fedpeft.methods.common.orthonormal import find_not_orthonormal, retract_r

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)  # [choice] holds 0, so that mixing never raises the held-out loss


class FedReftOptions(MethodOptions):
    lr: float = Field(4e-3, gt=0, description="learning rate of the first round")
    adapter: ReftOptions = Field(default_factory=ReftOptions, description="the interventions that every client trains")
    abm: Literal["median", "mean", "similarity"] = Field(
        "median",
        description="what a client receives of all the others; up to three clients median and mean are alike; "
        "similarity: a mean in which those who are like it count for more",
    )
    mixing: Literal["fixed", "validation"] = Field(
        "fixed", description="lambda is `mixing_weight`, or each client chooses its own on its validation split"
    )
    mixing_weight: float = Field(
        0.5, ge=0, le=1, description="lambda of fixed mixing: 0 keeps the client's own parameters, 1 takes the others'"
    )
    head_mixing_weight: float | None = Field(
        None, ge=0, le=1, description="lambda of the head: 0 keeps the client's own; null: as the interventions'"
    )
    align: bool = Field(False, description="turn every client to a common gauge before aggregation and mixing")


@dataclass(frozen=True)
class FedReftState:
    """`phis` and `others` hold the clients that have trained at least once; both are sorted by client id."""

    mean: Tensors  # of all clients, at first the common start: the gauge of reference
    phis: dict[str, Tensors]  # last known parameters, by client
    others: dict[str, Tensors]  # z_k, what each client receives
    everyone: Tensors  # the centre of all clients, which a joining client receives; at first the common start


class FedReft(Method[FedReftState]):
    Options = FedReftOptions
    reply_scalars: ClassVar[Mapping[str, type]] = {**Method.reply_scalars, "mixing_weight": float}

    def start(self, info: FederationInfo, seed: int) -> FedReftState:
        start = info.shared_initial_tensors()
        return FedReftState(start, {}, {}, start)

    def rejection_reason(self, state: FedReftState, reply: Reply) -> str | None:
        return find_not_orthonormal(reply.tensors) if self.options.adapter.variant == "loreft" else None

    def update_baseline(self, state: FedReftState, message: Message, reply: Reply) -> Tensors:
        return state.phis.get(reply.client, message.tensors)  # z_k is the others' doing: with it a limit would move

    def aggregate(self, state: FedReftState, replies: Sequence[Reply]) -> FedReftState:
        # 1. Keep the new parameters; clients that were not drawn stay as they last were.
        new = {reply.client: reply.tensors for reply in replies}
        if self.options.align:
            new = {client: align_to(phi, state.mean) for client, phi in new.items()}
        phis = dict(sorted((state.phis | new).items()))
        # 2. All leave-one-out centres: per group one K x K Gram matrix for the weights, one product for the values.
        points = list(phis.values())
        centres: list[Tensors] = [{} for _ in range(len(points) + 1)]
        for names in group_names(state.mean):
            flat = [torch.cat([phi[name].flatten() for name in names]) for phi in points]  # (d,) each
            for centre, values in zip(centres, combine(self._weigh_all_but_me(flat), flat), strict=True):  # (d,)
                parts = values.split([points[0][name].numel() for name in names])
                centre |= {n: part.view_as(points[0][n]).clone() for n, part in zip(names, parts, strict=True)}
        last = [*(state.others.get(client, state.everyone) for client in phis), state.everyone]
        *others, everyone = map(self._retract, centres, last)
        mean = self._retract(mean_tensors(points), state.mean)
        return FedReftState(mean, phis, dict(zip(phis, others, strict=True)), everyone)

    def send(self, state: FedReftState, client: ClientSpec) -> Tensors:
        return state.others.get(client.id, state.everyone)

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        own, others = client.local.trained, message.tensors
        if own is None:  # the first round: the common start
            model.write(others)
            return {}
        if self.options.align:
            own = align_to(own, others)
        if self.options.mixing == "fixed":
            weight = self.options.mixing_weight
        else:
            losses = {w: self._compute_held_out_loss(model, client, self._mix(own, others, w)) for w in LAMBDAS}
            weight = min(losses, key=losses.__getitem__)
        model.write(self._mix(own, others, weight))
        return {"mixing_weight": weight}

    def reference_models(self, state: FedReftState) -> dict[str, Tensors]:
        return {"mean": state.mean}

    def _weigh_all_but_me(self, points: Sequence[Tensor]) -> Tensor:
        """Convex weights (K + 1, K) of the K points (d,): row k is of all but k, the last one of all."""
        count = len(points)
        if count == 1:  # nobody else yet: the client keeps its own, and a joining client takes it
            return torch.ones(2, 1, dtype=torch.float64)
        uniform = torch.full((count,), 1 / count, dtype=torch.float64)
        if self.options.abm == "mean":
            return torch.cat([leave_one_out_mean_mix(uniform), uniform[None]])
        inner = gram(points)  # (K, K) float64
        if self.options.abm == "similarity":
            return torch.cat([leave_one_out_similarity_mix(inner), uniform[None]])
        return torch.cat([leave_one_out_median_mix(inner), geometric_median_mix(inner)[None]])

    def _mix(self, own: Tensors, others: Tensors, weight: float) -> Tensors:
        of_head = weight if self.options.head_mixing_weight is None else self.options.head_mixing_weight
        mixed = {name: torch.lerp(own[name], others[name], of_head if is_head(name) else weight) for name in own}
        return self._retract(mixed, own)

    def _retract(self, tensors: Tensors, last: Tensors) -> Tensors:
        return retract_r(tensors, last) if self.options.adapter.variant == "loreft" else tensors

    def _compute_held_out_loss(self, model: AdaptedModel, client: Client, tensors: Tensors) -> float:
        model.write(tensors)
        return client.scores(model, "validation")["loss"]


def group_names(names: Sequence[str] | Tensors) -> list[list[str]]:
    """The tensors that share one median: each intervention's R, W and b; then the head, where there is one."""
    head = [name for name in names if is_head(name)]
    return [*map(list, find_interventions(names)), *([head] if head else [])]


def align_to(phi: Tensors, reference: Tensors) -> Tensors:
    """The same interventions in the gauge nearest to the reference's."""
    aligned: Tensors = {}
    for r, w, b in find_interventions(phi):
        parts = align(phi[r], phi[w], phi[b], (reference[r], reference[w], reference[b]))
        aligned |= zip((r, w, b), parts, strict=True)
    return phi | aligned
