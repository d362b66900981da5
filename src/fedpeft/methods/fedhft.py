"""FedHFT: a mixture of masked adapters for clients of different capacity. Ilhan et al., arXiv 2510.14054.

One round, numbered as in the code below:

1. [paper] Mixture. Client k is sent D_k = sum_j P_kj G_j in rank r_k, and head_k = sum_j P_kj head_j: a personal
   message whose size does not depend on the number of clusters. G_j is cluster j's cumulative update.
2. [paper] Local step (lower level): D_k stays frozen beside the base, a fresh LoRA is trained.
3. [paper] Mask: of every module the rows of B that matter most, a share rho_k (the client's density) of them.
   Importance is the mean squared gradient of the row ("fisher", the paper's text) or the row's energy ("energy", the
   released code's), from the factors: I[d] = B[d] A A^T B[d]^T [derived].
4. [paper] Upload: the masked rows of B, A, a bitmap of the rows, the head. No zeros travel.
5. [paper] Overlap-aware aggregation (upper level), per cluster j and row d, over the clients whose mask holds d:
   g_j[d] = sum_k w_k P_kj s B_k[d] A_k / sum_k w_k P_kj;   G_j += g_j;   heads alike. Ours [choice]: the denominator
   counts responsibility; `normalize: count` divides by the number of clients, as the released code does, which shrinks
   every step by about 1/C. w_k is the share of training rows.
6. [paper] Clustering after a warm-up: P from a Gaussian mixture over one feature per client. Ours [choice]: PCA and
   diagonal covariances, warm-started, matched to the old clusters, with a floor under P; until then all clusters are
   one, because equal shares make them so. `clusters: auto` takes the number that BIC prefers at that moment.
7. [paper] Bi-level means this alternation.

`masks: before` [ours] chooses the rows before training and trains only those, so gradients and optimiser state exist
for them alone: half by the energy of the mixture received, half drawn anew each round, so that no row is shut out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from peft import PeftConfig
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedpeft.adapters import AdaptedModel, LoraOptions, is_head
from fedpeft.aggregation import (
    Factors,
    concat_factors,
    overlap_mean,
    responsibilities,
    sketch,
    sketch_matrices,
    truncate,
)
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, MethodOptions, example_weights, layout
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.common.cumulative_delta import draw_fresh_lora, name_frozen_delta
from fedpeft.methods.common.masked_upload import (
    Modules,
    RowGradients,
    find_wrong_bitmap,
    make_masked_upload,
    make_upload_layout,
    read_client_modules,
    read_masked_update,
    read_sizes,
    row_energies,
    rows_after,
    rows_before,
    rows_trained,
    upload_names,
)  # fmt: skip
from fedpeft.methods.common.ranks import mean_heads

MOST_CLUSTERS = 6  # [choice] that "auto" looks at
SKETCH = 4  # [choice] side of the sketch of one module's update


class FedHftOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="LoRA; `resources` give clients other ranks")
    clusters: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        2, description="number of clusters; auto: by BIC after the warm-up"
    )
    warmup: int = Field(5, ge=1, description="rounds with one cluster before the first clustering")
    floor: float = Field(0.02, ge=0, lt=0.5, description="least responsibility of a cluster for a client")
    feature: Literal["head", "update"] = Field(
        "head", description="what clients are clustered by; decoders, which have no head, always by their updates"
    )
    importance: Literal["fisher", "energy"] = Field("fisher", description="what makes a row matter")
    masks: Literal["after", "before"] = Field("after", description="rows are chosen after training, or before it")
    normalize: Literal["responsibility", "count"] = Field("responsibility", description="the overlap's denominator")
    server_rank: int | None = Field(64, ge=1, description="rank at which a cluster keeps its update; null: exact")

    @model_validator(mode="after")
    def _floor_leaves_something(self) -> "FedHftOptions":
        most = MOST_CLUSTERS if self.clusters == "auto" else self.clusters
        if most * self.floor >= 1:
            raise ValueError(f"clusters x floor must be below 1, here {most} x {self.floor}")
        return self


@dataclass(frozen=True)
class FedHftState:
    """One cluster until the first clustering; `shares` hold P_k (clusters,) by client."""

    modules: dict[str, Modules]
    heads: tuple[Tensors, ...]
    updates: tuple[dict[str, Factors], ...]  # G_j by module
    seed: int
    shares: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)  # the last known of each client
    mixtures: dict[str, Tensors] = field(default_factory=dict)  # D_k as it is sent

    def share(self, client: str) -> Tensor:
        """P_k (clusters,); of a client that has not trained yet the mean of all others, which is what is known."""
        return self.shares.get(client, self._mean_share)

    @cached_property
    def _mean_share(self) -> Tensor:
        if not self.shares:
            return torch.ones(len(self.heads), dtype=torch.float64) / len(self.heads)
        return torch.stack(list(self.shares.values())).mean(0)


class FedHft(Method[FedHftState]):
    Options = FedHftOptions
    uses_client_state = False

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        return self.options.adapter.make_config(model, client.resources, masked=self.options.masks == "before")

    def start(self, info: FederationInfo, seed: int) -> FedHftState:
        some = next(iter(info.initial.values()))
        head = {name: tensor for name, tensor in some.items() if is_head(name)}
        return FedHftState(read_client_modules(info), (head,), ({},), seed)

    # ---- 1. the mixture

    def send(self, state: FedHftState, client: ClientSpec) -> Tensors:
        share = state.share(client.id)
        head = {
            n: weighted_sum([(h[n], p) for h, p in zip(state.heads, share.tolist(), strict=True)])
            for n in state.heads[0]
        }
        if client.id in state.modules:
            return head | state.mixtures.get(client.id, {})
        return head | make_mixture(state.updates, share, dict.fromkeys(state.updates[0], self.options.adapter.r))

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.set_frozen_delta({name: tensor for name, tensor in message.tensors.items() if ".merged_" in name})
        if self.options.masks == "before":
            model.set_rows(rows_before(model, message, client))
        head = {name: tensor for name, tensor in message.tensors.items() if is_head(name)}
        model.write(head | draw_fresh_lora(model, client.generator("fresh", message.round)))
        return {}

    # ---- 2. to 4. the client's round

    def train(
        self, model: AdaptedModel, message: Message, client: Client, training: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        self.receive(model, message, client)
        fisher = RowGradients(model)  # 2.
        trainer = LocalTrainer(model, client, model.names, self.lr(message, training), training, shuffle)
        loss = train_locally(trainer, observe=fisher.observe)
        client.local.trained = model.snapshot()
        trained = model.read()
        if self.options.masks == "before":  # 3.
            rows = rows_trained(model)
        else:
            importance = fisher.importance() if self.options.importance == "fisher" else row_energies(trained)
            rows = rows_after(importance, client.spec.resources.density)
        head = {name: tensor for name, tensor in trained.items() if is_head(name)}
        scalars = {"examples": client.spec.examples, "loss": loss}
        return Reply(message.client, message.round, head | make_masked_upload(model, rows, trained), scalars)  # 4.

    def reply_layout(self, state: FedHftState, message: Message) -> Layout:
        return layout(state.heads[0]) | make_upload_layout(state.modules[message.client])

    def rejection_reason(self, state: FedHftState, reply: Reply) -> str | None:
        return find_wrong_bitmap(reply, state.modules[reply.client])

    # ---- 5. and 6. the server's round

    def aggregate(self, state: FedHftState, replies: Sequence[Reply]) -> FedHftState:
        shares = torch.stack([state.share(reply.client) for reply in replies])  # (clients, clusters)
        weights = example_weights(replies)[:, None] * shares  # (clients, clusters)
        if self.options.normalize == "count":
            weights = len(replies) * weights  # the count divides by the clients once more
        updates = tuple(self._stepped(state, j, replies, weights[:, j]) for j in range(len(state.updates)))
        heads = tuple(self._head(state, j, replies, weights[:, j]) for j in range(len(state.heads)))
        state = replace(state, updates=updates, heads=heads)
        state = replace(state, features=state.features | self._features(state, replies))
        if replies[0].round >= self.options.warmup:
            state = self._clustered(state)
        return replace(state, mixtures=make_mixtures(state))

    def _stepped(self, state: FedHftState, j: int, replies: Sequence[Reply], weights: Tensor) -> dict[str, Factors]:
        """G_j + g_j; weights w_k P_kj (clients,)."""
        after = dict(state.updates[j])
        for module, sizes in find_adapted_modules(state, replies).items():
            own = [i for i, reply in enumerate(replies) if upload_names(module)[0] in reply.tensors]
            parts = [read_masked_update(replies[i], module, sizes, self.options.adapter.scale) for i in own]
            step = overlap_mean(parts, weights[own], sizes["d_out"], self.options.normalize)
            whole = concat_factors([after[module], step]) if module in after else step
            limit = min(self.options.server_rank or sizes["d_in"], sizes["d_in"], sizes["d_out"])
            after[module] = truncate(whole, limit) if whole[1].shape[0] > limit else whole
        return after

    def _head(self, state: FedHftState, j: int, replies: Sequence[Reply], weights: Tensor) -> Tensors:
        if not weights.sum() > 0:
            return state.heads[j]
        mean = mean_heads(replies, weights)
        if self.options.normalize == "responsibility":
            return mean
        return {name: tensor * (float(weights.sum()) / len(replies)) for name, tensor in mean.items()}

    def _features(self, state: FedHftState, replies: Sequence[Reply]) -> dict[str, Tensor]:
        if self.options.feature == "head" and state.heads[0]:
            return {
                r.client: torch.cat([t.flatten() for n, t in sorted(r.tensors.items()) if is_head(n)]) for r in replies
            }
        return {reply.client: self._sketched(state, reply) for reply in replies}

    def _sketched(self, state: FedHftState, reply: Reply) -> Tensor:
        """One sketch per module of any client; zeros where this one does not adapt it."""
        own, parts = state.modules[reply.client], []
        for module in sorted({module for modules in state.modules.values() for module in modules}):
            if module in own:
                rows, b, a = read_masked_update(reply, module, own[module], self.options.adapter.scale)
                left, right = sketch_matrices(own[module]["d_out"], own[module]["d_in"], SKETCH, state.seed)
                parts.append(sketch((b, a), left[:, rows], right))
            else:
                parts.append(torch.zeros(SKETCH * SKETCH))
        return torch.cat(parts)

    def _clustered(self, state: FedHftState) -> FedHftState:
        clients = sorted(state.features)
        count = self.options.clusters if not state.shares or self.options.clusters != "auto" else len(state.heads)
        before = torch.stack([state.share(c) for c in clients]) if state.shares else None
        found = responsibilities(
            torch.stack([state.features[c] for c in clients]),
            count,
            before,
            floor=self.options.floor,
            seed=state.seed,
            maximum=MOST_CLUSTERS,
        )  # (clients, clusters)
        grown = found.shape[1] // len(state.heads) if not state.shares else 1  # the one cluster becomes all of them
        return replace(
            state,
            shares=dict(zip(clients, found, strict=True)),
            heads=state.heads * grown,
            updates=state.updates * grown,
        )

    # ---- a newcomer [ours]: its place among the clusters there are; nobody else's moves

    def add_client(self, state: FedHftState, reply: Reply) -> FedHftState:
        known = {module: size for modules in state.modules.values() for module, size in modules.items()}
        own = {
            module: size | read_sizes(reply, module)
            for module, size in known.items()
            if upload_names(module)[0] in reply.tensors
        }
        state = replace(state, modules=state.modules | {reply.client: own})
        state = replace(state, features=state.features | self._features(state, [reply]))
        if state.shares:
            place = self._clustered(state).shares[reply.client]  # (clusters,)
            state = replace(state, shares=state.shares | {reply.client: place})
        ranks = {module: size["rank"] for module, size in own.items()}
        sent = make_mixture(state.updates, state.share(reply.client), ranks)
        return replace(state, mixtures=state.mixtures | {reply.client: sent})


def find_adapted_modules(state: FedHftState, replies: Sequence[Reply]) -> dict[str, Mapping[str, int]]:
    """The sizes of every module that some reply adapts, in order of name."""
    found = {m: size for reply in replies for m, size in state.modules[reply.client].items()}
    return dict(sorted(found.items()))


def make_mixture(updates: Sequence[dict[str, Factors]], share: Tensor, ranks: Mapping[str, int]) -> Tensors:
    """D = sum_j P_j G_j on the modules of `ranks`, at those ranks, as a frozen delta."""
    result = {}
    for module, rank in ranks.items():
        held = [(u[module], p) for u, p in zip(updates, share.tolist(), strict=True) if module in u]
        if held:
            factors, weights = zip(*held, strict=True)
            result[module] = truncate(concat_factors(factors, weights), rank)
    return name_frozen_delta(result)


def make_mixtures(state: FedHftState) -> dict[str, Tensors]:
    """Every client's mixture; computed once for clients of equal shares and ranks."""
    made: dict[tuple[object, ...], Tensors] = {}
    result = {}
    for client, modules in state.modules.items():
        share = state.share(client)
        ranks = {module: size["rank"] for module, size in modules.items()}
        key = (*share.tolist(), *ranks.items())
        if key not in made:
            made[key] = make_mixture(state.updates, share, ranks)
        result[client] = made[key]
    return result


def weighted_sum(terms: Sequence[tuple[Tensor, float]]) -> Tensor:
    """The weighted sum of tensors, accumulated in float64, in their dtype."""
    return torch.stack([tensor.double() * weight for tensor, weight in terms]).sum(0).to(terms[0][0].dtype)
