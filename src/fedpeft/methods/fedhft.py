"""FedHFT: a mixture of masked adapters for clients of different capacity. Ilhan et al., arXiv 2510.14054.

One round, numbered as in the code below:

1. [paper] Mixture. Client k is sent D_k = sum_j P_kj G_j in rank r_k, and head_k = sum_j P_kj head_j: a personal
   message whose size does not depend on the number of clusters. G_j is cluster j's cumulative update, P_kj the
   responsibility of cluster j for client k.
2. [paper] Local step (lower level): D_k stays frozen beside the base, a fresh LoRA is trained.
3. [paper] Mask: of every module the rows of B that matter most, a fraction rho_k (the client's density) of them.
   Importance is the mean squared gradient of the row ("fisher", the paper's text) or the row's energy ("energy", the
   released code's), from the factors: I[d] = B[d] A A^T B[d]^T [derived].
4. [paper] Upload: the masked rows of B, A, a bitmap of the rows, the head. No zeros travel.
5. [paper] Overlap-aware aggregation (upper level), per cluster j and row d, over the clients whose mask holds d:
   g_j[d] = sum_k w_k P_kj s B_k[d] A_k / sum_k w_k P_kj;   G_j += g_j;   heads alike. Ours [choice]: the denominator
   sums responsibilities; `normalize: count` divides by the number of clients, as the released code does, which shrinks
   every step by about 1/C. w_k is client k's fraction of the training examples.
6. [paper] Clustering after a warm-up: P from a Gaussian mixture over one feature per client. Ours [choice]: PCA and
   diagonal covariances, warm-started, matched to the old clusters, with a floor under P; until then there is one
   cluster, as equal responsibilities would have it. `clusters: auto` takes the number that BIC prefers at that moment.
7. [paper] Bi-level means this alternation.

`masks: before` [ours] chooses the rows before training and trains only those, so gradients and optimiser state exist
for them alone: half by the energy of the mixture received, half drawn anew each round, so that no row is left out for
good.

`fresh_a: shared` [ours] draws the A of a round from the run's seed, the same at every client and at the server, and
freezes it: rows of B alone travel up, density x about half of LoRA's bytes, which `own` cannot reach because its A
travels whole; and step 5 is exact in rank r.

`own_weight` [ours] makes every client a cluster of its own beside the others, with that responsibility: what it is sent
is own_weight times what its last training left, D_k plus its masked update and its head, and the rest the mixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from peft import PeftConfig
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedpeft.adapters import AdaptedModel, get_frozen_delta_names, take_head
from fedpeft.aggregation import Factors, concat_factors, fit_responsibilities, overlap_mean, truncate
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, example_weights, get_layout
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.common.client_features import flatten_head, sketch_update
from fedpeft.methods.common.cumulative_delta import draw_fresh_lora, take_frozen_delta
from fedpeft.methods.common.fresh_update import measure_products, shrink_products
from fedpeft.methods.common.lora_tensors import mean_heads
from fedpeft.methods.common.masked_upload import (
    ModuleSizes,
    find_replies_with,
    find_uploaded_modules,
    find_wrong_bitmap,
    get_upload_names,
    make_masked_upload,
    make_upload_layout,
    merge_modules,
    read_client_modules,
    read_masked_update,
    read_reply_modules,
)
from fedpeft.methods.common.mixture import describe_responsibilities, mix_for_clients, mix_tensors, mix_updates
from fedpeft.methods.common.options import MixedRankOptions
from fedpeft.methods.common.row_masks import (
    RowGradients,
    choose_rows,
    compute_row_energies,
    draw_rows,
    get_trained_rows,
)
from fedpeft.methods.common.shared_a import draw_shared_lora, drop_a, fold_shared_a, restore_a

MOST_CLUSTERS = 6  # [choice] the most that "auto" considers


class FedHftOptions(MixedRankOptions):
    clusters: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        2, description="number of clusters; auto: by BIC after the warm-up"
    )
    warmup: int = Field(5, ge=1, description="rounds with one cluster before the first clustering")
    floor: float = Field(0.02, ge=0, lt=0.5, description="least responsibility of a cluster for a client")
    feature: Literal["head", "update"] = Field(
        "head", description="what clients are clustered by; decoders, which have no head, always by their updates"
    )
    importance: Literal["fisher", "energy"] = Field(
        "fisher", description="which rows of B count as important: largest mean squared gradient, or largest row of B A"
    )
    masks: Literal["after", "before"] = Field(
        "after", description="rows are chosen after training, or before it, which saves memory"
    )
    normalize: Literal["responsibility", "count"] = Field(
        "responsibility", description="a row's sum over clients is divided by their responsibilities, or by their count"
    )
    fresh_a: Literal["own", "shared"] = Field(
        "own",
        description="A of a round: each client draws and trains its own, or all have one from the seed, which stays "
        "frozen and does not travel",
    )
    own_weight: float = Field(
        0.0, ge=0, le=1, description="part of a client's own last model in what it is sent; the rest is the mixture"
    )
    server_rank: int | None = Field(
        64, ge=1, description="rank at which the server keeps a cluster's update; null: exact"
    )

    @model_validator(mode="after")
    def _check_floor(self) -> "FedHftOptions":
        most = MOST_CLUSTERS if self.clusters == "auto" else self.clusters
        if most * self.floor >= 1:
            raise ValueError(f"clusters x floor must be below 1, here {most} x {self.floor}")
        return self


@dataclass(frozen=True)
class FedHftState:
    """One cluster until the first clustering; then `shares` holds the responsibilities."""

    modules: dict[str, ModuleSizes]  # by client
    heads: tuple[Tensors, ...]  # by cluster
    updates: tuple[dict[str, Factors], ...]  # G_j, by cluster and module
    seed: int
    shares: dict[str, Tensor] = field(default_factory=dict)  # P_k (clusters,) by client; old checkpoints have this name
    features: dict[str, Tensor] = field(default_factory=dict)  # the last known, by client
    mixtures: dict[str, Tensors] = field(default_factory=dict)  # D_k as it is sent, by client
    own_heads: dict[str, Tensors] = field(default_factory=dict)  # the last known, by client, with an `own_weight`
    own_updates: dict[str, dict[str, Factors]] = field(default_factory=dict)  # D_k and the masked update, by client

    def get_responsibilities(self, client: str) -> Tensor:
        """P_k (clusters,); the mean of all others' for a client that has not trained yet, which is all we know."""
        return self.shares.get(client, self._mean_responsibilities)

    @cached_property
    def _mean_responsibilities(self) -> Tensor:
        if not self.shares:
            return torch.ones(len(self.heads), dtype=torch.float64) / len(self.heads)
        return torch.stack(list(self.shares.values())).mean(0)


class FedHft(Method[FedHftState]):
    Options = FedHftOptions
    uses_client_state = False
    follows = Method.follows | {"density"}

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        return self.options.adapter.make_config(model, client.resources, masked=self.options.masks == "before")

    def start(self, info: FederationInfo, seed: int) -> FedHftState:
        head = take_head(next(iter(info.initial.values())))
        return FedHftState(read_client_modules(info), (head,), ({},), seed)

    # ---- 1. the mixture

    def send(self, state: FedHftState, client: ClientSpec) -> Tensors:
        responsibilities = state.get_responsibilities(client.id)
        if client.id in state.own_heads:
            head = mix_tensors([*state.heads, state.own_heads[client.id]], self._add_own_weight(responsibilities))
        else:
            head = mix_tensors(state.heads, responsibilities)
        if client.id in state.modules:
            return head | state.mixtures.get(client.id, {})
        ranks = dict.fromkeys(state.updates[0], self.options.adapter.r)
        return head | mix_updates(state.updates, responsibilities, ranks)

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        model.set_frozen_delta(take_frozen_delta(message.tensors))
        if self.options.masks == "before":
            model.set_rows(draw_rows(model, message, client))
        if self._sends_a:
            fresh = draw_fresh_lora(model, client.generator("fresh", message.round))
        else:
            fresh = draw_shared_lora(model, client.seed, message.round)
        model.write(take_head(message.tensors) | fresh)
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:
        return model.names if self._sends_a else tuple(drop_a(model.names))

    # ---- 2. to 4. the client's round

    def train(
        self, model: AdaptedModel, message: Message, client: Client, training: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        self.receive(model, message, client)
        gradients = RowGradients(model)  # 2.
        lr = self.lr(message, training)
        names = self.trainable_names(model, message)
        trainer = LocalTrainer(model, client, names, lr, training, shuffle, message.round)
        loss = train_locally(trainer, observe=gradients.observe)
        client.local.trained = model.snapshot()
        trained = model.read()
        if self.options.masks == "before":  # 3.
            rows = get_trained_rows(model)
        else:
            by_gradient = self.options.importance == "fisher"
            importance = gradients.get_importance() if by_gradient else compute_row_energies(trained)
            rows = choose_rows(importance, client.spec.resources.density)
        tensors = take_head(trained) | make_masked_upload(model, rows, trained, self._sends_a)  # 4.
        return Reply(message.client, message.round, tensors, {"examples": client.spec.examples, "loss": loss})

    def reply_layout(self, state: FedHftState, message: Message) -> Layout:
        return get_layout(state.heads[0]) | make_upload_layout(state.modules[message.client], self._sends_a)

    @property
    def _sends_a(self) -> bool:
        return self.options.fresh_a == "own"

    def rejection_reason(self, state: FedHftState, reply: Reply) -> str | None:
        return find_wrong_bitmap(reply, state.modules[reply.client])

    def measure_adapter(self, reply: Reply) -> tuple[float, int]:
        names = map(get_upload_names, find_uploaded_modules(reply))
        if not self._sends_a:  # one A for all: B alone says who goes how far
            parts = [reply.tensors[b] for _, b, _ in names]
            return measure_products((b, torch.eye(b.shape[1], device=b.device)) for b in parts)
        return measure_products((reply.tensors[b], reply.tensors[a]) for a, b, _ in names)

    def shrink_update(self, reply: Reply, baseline: Tensors, adapter: float, head: float) -> Tensors:
        names = [get_upload_names(module)[1] for module in find_uploaded_modules(reply)]
        return shrink_products(reply.tensors, baseline, names, adapter, head)

    # ---- 5. and 6. the server's round

    def aggregate(self, state: FedHftState, replies: Sequence[Reply]) -> FedHftState:
        if not self._sends_a:
            replies = [restore_a(reply, state.modules[reply.client], state.seed) for reply in replies]
        responsibilities = torch.stack([state.get_responsibilities(reply.client) for reply in replies])
        weights = example_weights(replies)[:, None] * responsibilities  # (clients, clusters)
        if self.options.normalize == "count":
            weights = len(replies) * weights  # dividing by the count divides by the number of clients once more
        updates = tuple(self._add_step(state, j, replies, weights[:, j]) for j in range(len(state.updates)))
        heads = tuple(self._average_head(state, j, replies, weights[:, j]) for j in range(len(state.heads)))
        state = self._remember(replace(state, updates=updates, heads=heads), replies)
        if replies[0].round >= self.options.warmup:
            state = self._cluster(state)
        known = {client: state.get_responsibilities(client) for client in state.modules}
        ranks = {client: read_module_ranks(modules) for client, modules in state.modules.items()}
        mixtures = mix_for_clients(
            state.updates, known, {client: ranks[client] for client in ranks if client not in state.own_updates}
        )
        mixtures |= {client: self._mix_own(state, client) for client in state.own_updates}
        return replace(state, mixtures=mixtures)

    def _add_step(self, state: FedHftState, j: int, replies: Sequence[Reply], weights: Tensor) -> dict[str, Factors]:
        """G_j + g_j, from the weights w_k P_kj (clients,)."""
        updates = dict(state.updates[j])
        modules = merge_modules({reply.client: state.modules[reply.client] for reply in replies})
        for module, size in sorted(modules.items()):
            indices = find_replies_with(replies, module)
            parts = [read_masked_update(replies[i], module, size, self.options.adapter.scale) for i in indices]
            step = overlap_mean(parts, weights[indices], size["d_out"], self.options.normalize)
            if not self._sends_a:
                step = fold_shared_a(step, [part.A.shape[0] for part in parts])
            total = concat_factors([updates[module], step]) if module in updates else step
            limit = min(self.options.server_rank or size["d_in"], size["d_in"], size["d_out"])
            updates[module] = truncate(total, limit) if total[1].shape[0] > limit else total
        return updates

    def _average_head(self, state: FedHftState, j: int, replies: Sequence[Reply], weights: Tensor) -> Tensors:
        if not weights.sum() > 0:
            return state.heads[j]
        mean = mean_heads(replies, weights)
        if self.options.normalize == "responsibility":
            return mean
        return {name: tensor * (float(weights.sum()) / len(replies)) for name, tensor in mean.items()}

    def _remember(self, state: FedHftState, replies: Sequence[Reply]) -> FedHftState:
        """The state with the newest feature, and with an `own_weight` the own model, of each client that replied."""
        state = replace(state, features=state.features | self._read_features(state, replies))
        if not self.options.own_weight:
            return state
        heads = {reply.client: take_head(reply.tensors) for reply in replies}
        updates = {reply.client: self._read_own_update(state, reply) for reply in replies}
        return replace(state, own_heads=state.own_heads | heads, own_updates=state.own_updates | updates)

    def _read_own_update(self, state: FedHftState, reply: Reply) -> dict[str, Factors]:
        """What the client was sent plus the rows that it sends back, by module."""
        own, sent = {}, state.mixtures.get(reply.client, {})
        for module in find_uploaded_modules(reply):
            size = state.modules[reply.client][module]
            part = read_masked_update(reply, module, size, self.options.adapter.scale)
            step = overlap_mean([part], torch.ones(1), size["d_out"], "responsibility")
            name_a, name_b = get_frozen_delta_names(module)
            own[module] = concat_factors([(sent[name_b], sent[name_a]), step]) if name_a in sent else step
        return own

    def _add_own_weight(self, responsibilities: Tensor) -> Tensor:
        """Responsibilities (clusters + 1,), the last one of the client itself."""
        weight = self.options.own_weight
        return torch.cat([(1 - weight) * responsibilities, responsibilities.new_tensor([weight])])

    def _mix_own(self, state: FedHftState, client: str) -> Tensors:
        """D_k of a client that is a cluster of its own."""
        weights = self._add_own_weight(state.get_responsibilities(client))
        clusters = [*state.updates, state.own_updates[client]]
        return mix_updates(clusters, weights, read_module_ranks(state.modules[client]))

    def _read_features(self, state: FedHftState, replies: Sequence[Reply]) -> dict[str, Tensor]:
        if self.options.feature == "head" and state.heads[0]:
            return {reply.client: flatten_head(reply) for reply in replies}
        scale = self.options.adapter.scale
        return {reply.client: sketch_update(reply, state.modules, scale, state.seed) for reply in replies}

    def _cluster(self, state: FedHftState) -> FedHftState:
        clients, is_first = sorted(state.features), not state.shares
        responsibilities = fit_responsibilities(
            torch.stack([state.features[client] for client in clients]),
            self.options.clusters if is_first or self.options.clusters != "auto" else len(state.heads),
            None if is_first else torch.stack([state.get_responsibilities(client) for client in clients]),
            floor=self.options.floor,
            seed=state.seed,
            maximum=MOST_CLUSTERS,
        )  # (clients, clusters)
        copies = (
            responsibilities.shape[1] // len(state.heads) if is_first else 1
        )  # all clusters start from the one before them
        return replace(
            state,
            shares=dict(zip(clients, responsibilities, strict=True)),
            heads=state.heads * copies,
            updates=state.updates * copies,
        )

    def describe_clients(self, state: FedHftState) -> dict[str, dict[str, Scalar]]:
        return {client: describe_responsibilities(own) for client, own in state.shares.items()}

    # ---- a joining client [ours]: its responsibilities among the clusters there are; nobody else's change

    def add_client(self, state: FedHftState, reply: Reply) -> FedHftState:
        sent = take_frozen_delta(self.send(state, ClientSpec(reply.client, int(reply.scalars["examples"]))))
        modules = read_reply_modules(reply, state.modules, self._sends_a)
        if not self._sends_a:
            reply = restore_a(reply, modules, state.seed)
        state = replace(
            state,
            modules=state.modules | {reply.client: modules},
            mixtures=state.mixtures | {reply.client: sent},
        )
        state = self._remember(state, [reply])
        if state.shares:
            own = self._cluster(state).shares[reply.client]  # (clusters,)
            state = replace(state, shares=state.shares | {reply.client: own})
        if reply.client in state.own_updates:
            mixture = self._mix_own(state, reply.client)
        else:
            mixture = mix_updates(state.updates, state.get_responsibilities(reply.client), read_module_ranks(modules))
        return replace(state, mixtures=state.mixtures | {reply.client: mixture})


def read_module_ranks(modules: ModuleSizes) -> dict[str, int]:
    """The rank of every module."""
    return {module: size["rank"] for module, size in modules.items()}
