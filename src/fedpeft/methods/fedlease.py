"""FedLEASE: LoRA experts for clusters of clients, and routers that choose how many. Wang et al., arXiv 2509.15087.

The paper's: (1) after `warmup` rounds alone, clients are clustered by the cosine of their B's, averaged over the
layers, by average linkage, into as many clusters as the silhouette prefers; (2) a cluster's expert starts as the mean
of its clients' LoRA; (3) from then on a client trains its own cluster's expert and its router, all M experts beside it
are frozen; (4) the router has 2 M - 1 choices, of which the M most probable are taken: M experts, and M - 1 times the
client's own again, so that a token hears one expert or up to M; (5) the server averages each expert, and the router
[code], over its own cluster. The mean is not weighted [code]. The released code moves the warmed-up LoRA to its
cluster by replacing every "0" in its name, which loses layers 10, 20, ...: no oracle.
Ours [choice]: each client's own expert comes first, so that no client needs to know its cluster's number; the head
belongs to the cluster; clients without a reply in the warm-up belong to the largest cluster; one cluster where no
silhouette is positive.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft import PeftConfig
from pydantic import Field
from torch import nn, tensor

from fedpeft.adapters import AdaptedModel, LoraOptions, find_lora_pairs, take_head
from fedpeft.aggregation import cluster_by_silhouette, mean_tensors, measure_cosine_distances
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message, Reply, Scalar, Tensors
from fedpeft.federation.method import FederationInfo, Layout, Method, MethodOptions, get_layout
from fedpeft.methods.common.expert_tensors import (
    COUNT,
    find_trained_names,
    make_client_config,
    name_expert,
    read_expert,
    take_routers,
)
from fedpeft.methods.common.fedavg import fill_from_client
from fedpeft.methods.common.several_models import number_names, select_model

OWN = 0  # a client's own cluster's expert


class FedLeaseOptions(MethodOptions):
    adapter: LoraOptions = Field(default_factory=LoraOptions, description="the LoRA of every expert")
    warmup: int = Field(2, ge=1, description="rounds that clients train alone before they are clustered")
    experts: int = Field(4, ge=1, le=64, description="the most experts, and clusters")


@dataclass(frozen=True)
class FedLeaseState:
    start: Tensors  # LoRA, routers and head that every client starts from
    warmup: dict[str, Tensors]  # LoRA and head of each client, last known in the warm-up
    clusters: dict[str, int]  # by client; nobody is in one until the warm-up ends
    experts: tuple[Tensors, ...]  # of each cluster: LoRA, routers and head


class FedLease(Method[FedLeaseState]):
    Options = FedLeaseOptions

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        return make_client_config(self.options.adapter, model, client, self.options.experts, "adaptive")

    # ---- server

    def start(self, info: FederationInfo, seed: int) -> FedLeaseState:
        start = info.shared_initial_tensors()
        return FedLeaseState(read_expert(start, OWN) | take_routers(start) | take_head(start), {}, {}, ())

    def send(self, state: FedLeaseState, client: ClientSpec) -> Tensors:
        if not state.experts:
            return {}
        own = self._find_cluster(state, client.id)
        others = [expert for j, expert in enumerate(state.experts) if j != own]
        result = take_routers(state.experts[own]) | take_head(state.experts[own])
        for i, expert in enumerate([state.experts[own], *others]):
            result |= number_names({name: expert[name] for _, *pair in find_lora_pairs(expert) for name in pair}, i)
        return result

    def reply_layout(self, state: FedLeaseState, message: Message) -> Layout:
        routers = {} if state.experts else take_routers(state.start)  # which nobody trains in the warm-up
        return {name: kind for name, kind in get_layout(state.start).items() if name not in routers}

    def update_baseline(self, state: FedLeaseState, message: Message, reply: Reply) -> Tensors:
        if not state.experts:
            return state.warmup.get(reply.client, state.start)
        return state.experts[self._find_cluster(state, reply.client)]

    def aggregate(self, state: FedLeaseState, replies: Sequence[Reply]) -> FedLeaseState:
        if state.experts:  # (5)
            clusters = state.clusters | {r.client: self._find_cluster(state, r.client) for r in replies}
            own = [[r.tensors for r in replies if clusters[r.client] == j] for j in range(len(state.experts))]
            experts = [mean_tensors(t) if t else old for t, old in zip(own, state.experts, strict=True)]
            return replace(state, clusters=clusters, experts=tuple(experts))
        warmup = dict(sorted((state.warmup | {r.client: r.tensors for r in replies}).items()))
        if replies[0].round < self.options.warmup:
            return replace(state, warmup=warmup)
        points = [[lora[b] for _, _, b in find_lora_pairs(lora)] for lora in warmup.values()]
        labels = cluster_by_silhouette(measure_cosine_distances(points), self.options.experts)  # (1)
        clusters = dict(zip(warmup, labels, strict=True))
        routers = take_routers(state.start)
        means = [mean_tensors([warmup[c] for c in warmup if clusters[c] == j]) for j in range(max(labels) + 1)]  # (2)
        return FedLeaseState(state.start, {}, clusters, tuple(mean | routers for mean in means))

    def describe_clients(self, state: FedLeaseState) -> dict[str, dict[str, Scalar]]:
        return {client: {"cluster": cluster} for client, cluster in state.clusters.items()}

    def _find_cluster(self, state: FedLeaseState, client: str) -> int:
        sizes = Counter(state.clusters.values())
        return state.clusters.get(client, max(sizes, key=lambda j: (sizes[j], -j)))

    # ---- client

    def receive(self, model: AdaptedModel, message: Message, client: Client) -> dict[str, Scalar]:
        if not message.tensors:  # warm-up: one expert is in use, and goes on alone
            model.write(fill_from_client(message, client))
            return {}
        tensors = client.initial | take_routers(message.tensors) | take_head(message.tensors)
        count = 0
        while expert := select_model(message, count):
            tensors |= name_expert(expert, count)
            count += 1
        model.write(tensors | {COUNT: tensor([float(count)])})
        return {}

    def trainable_names(self, model: AdaptedModel, message: Message) -> tuple[str, ...]:  # (3), (4)
        return find_trained_names(model.names, OWN, with_routers=bool(message.tensors))

    def reply(self, model: AdaptedModel, message: Message, client: Client) -> Tensors:
        trained = model.read()
        own = read_expert(trained, OWN) | take_head(trained)
        return own | take_routers(trained) if message.tensors else own
