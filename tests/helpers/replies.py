"""Made-up tensors of LoRA and LoReFT clients, and what a method's server makes of them; no model is needed."""

import torch
from torch import Tensor, nn

from fedpeft.adapters import get_expert_names, get_frozen_delta_names, get_router_name
from fedpeft.federation.client import Client, ClientSpec, ClientState
from fedpeft.federation.message import Reply
from fedpeft.federation.method import FederationInfo
from fedpeft.methods import find_method
from fedpeft.methods.common.cumulative_delta import ADDED
from fedpeft.resources import ClientResources

SHAPES = {"m.layer.0.q": (7, 24), "m.layer.1.up": (24, 9)}  # (d_out, d_in), neither is square
SCALE = 2.0  # alpha 16, r 8
EXAMPLES = (1, 2, 3, 4)  # of clients c0 to c3
HEAD = "m.classifier.weight"
WIDTH, REFT_RANK = 24, 3
JOINING = ClientSpec("joining", 1)


def lora_tensors(seed: int, rank: int = 3) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (d_out, d_in) in SHAPES.items():
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, d_in, generator=draw)
        tensors[f"{module}.lora_B.weight"] = torch.randn(d_out, rank, generator=draw)
    tensors[HEAD] = torch.randn(3, 24, generator=draw)
    return tensors


def core_tensors(seed: int, rank: int = 3) -> dict[str, Tensor]:
    """The start of a client that trains R between A and a basis that it does not have yet."""
    tensors = lora_tensors(seed, rank)
    for module, (d_out, _) in SHAPES.items():
        tensors[f"{module}.lora_B.weight"] = torch.zeros(rank, rank)
        tensors[f"{module}.lora_B.basis"] = torch.zeros(d_out, rank)
    return tensors


def expert_tensors(seed: int, experts: int = 2, choices: int = 2, rank: int = 3) -> dict[str, Tensor]:
    """What a client with experts trains: that many LoRA, routers and a head."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (d_out, d_in) in SHAPES.items():
        for i in range(experts):
            a, b = get_expert_names(module, i)
            tensors |= {a: torch.randn(rank, d_in, generator=draw), b: torch.randn(d_out, rank, generator=draw)}
        tensors[get_router_name(module)] = torch.randn(choices, d_in, generator=draw)
    return tensors | {HEAD: torch.randn(3, 24, generator=draw)}


def reft_tensors(seed: int, spread: float = 0.3) -> dict[str, Tensor]:
    """Two interventions and a head near a common start, R with orthonormal rows."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.Generator().manual_seed(999)
    tensors = {}
    for layer in range(2):
        for part, shape in (("R", (1, REFT_RANK, WIDTH)), ("W", (1, REFT_RANK, WIDTH)), ("b", (1, REFT_RANK))):
            base = torch.randn(shape, generator=start)
            tensors[f"m.layer.{layer}.reft_{part}"] = base + spread * torch.randn(shape, generator=draw)
        r = f"m.layer.{layer}.reft_R"
        tensors[r] = torch.linalg.qr(tensors[r].mT).Q.mT.contiguous()
    tensors[HEAD] = torch.randn(2, WIDTH, generator=start) + spread * torch.randn(2, WIDTH, generator=draw)
    return tensors


def build_method(name, **options):
    kind = find_method(name)
    return kind(kind.Options(**options))


def start_lora(method, ranks=(3, 3, 3, 3)):
    """The server's first state and the four clients, of these ranks."""
    specs = tuple(
        ClientSpec(f"c{i}", n, ClientResources(rank=r)) for i, (n, r) in enumerate(zip(EXAMPLES, ranks, strict=True))
    )
    initial = {spec.id: lora_tensors(99, rank) for spec, rank in zip(specs, ranks, strict=True)}
    return method.start(FederationInfo(specs, initial, {spec.id: SHAPES for spec in specs}), 0), specs


def start_experts(method, experts=2, choices=2):
    """The first state of a server whose four clients hold experts."""
    specs = tuple(ClientSpec(f"c{i}", n) for i, n in enumerate(EXAMPLES))
    start = expert_tensors(99, experts, choices)
    return method.start(FederationInfo(specs, {spec.id: start for spec in specs}), 0), specs


def start_reft(method, clients=4):
    specs = tuple(ClientSpec(f"c{i}", 1) for i in range(clients))
    return method.start(FederationInfo(specs, {spec.id: reft_tensors(1000) for spec in specs}), 0), specs


def make_lora_replies(ranks=(3, 3, 3, 3), round_=1, base=0, travels=lambda name: True):
    """One reply of each client; `travels` says which tensors they hold."""
    return [
        make_reply(f"c{i}", {n: t for n, t in lora_tensors(base + i, r).items() if travels(n)}, examples, round_)
        for i, (examples, r) in enumerate(zip(EXAMPLES, ranks, strict=True))
    ]


def make_reft_replies(examples, base=0, round_=1):
    return [make_reply(f"c{i}", reft_tensors(base + i), n, round_) for i, n in enumerate(examples)]


def make_opposite_replies():
    """Two replies whose rows R are opposite, so that their mean has none."""
    turned = {name: -t if name.endswith("reft_R") else t for name, t in reft_tensors(0).items()}
    return [make_reply("c0", reft_tensors(0)), make_reply("c1", turned)]


def make_reply(client, tensors, examples=1, round_=1, **scalars):
    return Reply(client, round_, tensors, {"examples": examples, "loss": 0.0, **scalars})


def get_product(tensors, module) -> Tensor:
    """s B A of one module in float64."""
    return SCALE * tensors[f"{module}.lora_B.weight"].double() @ tensors[f"{module}.lora_A.weight"].double()


def get_delta(tensors, module) -> Tensor:
    """The frozen delta of one module in a message, marked as added or not, in float64; 0 where there is none."""
    a, b = get_frozen_delta_names(module)
    for prefix in (ADDED, ""):
        if prefix + a in tensors:
            return tensors[prefix + b].double() @ tensors[prefix + a].double()
    return torch.zeros(SHAPES[module], dtype=torch.float64)


def mean_product(replies, module) -> Tensor:
    total = sum(reply.scalars["examples"] for reply in replies)
    return sum(reply.scalars["examples"] / total * get_product(reply.tensors, module) for reply in replies)


def mean_tensor(replies, name) -> Tensor:
    """The mean of one tensor in float64, weighted by examples."""
    total = sum(reply.scalars["examples"] for reply in replies)
    return sum(reply.scalars["examples"] / total * reply.tensors[name].double() for reply in replies)


def truncate_dense(matrix, rank) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def is_close(a, b, tolerance=1e-5) -> bool:
    return torch.allclose(a.double(), b.double(), atol=tolerance, rtol=tolerance)


def largest_difference(a, b) -> float:
    """Of two dicts of tensors, over the names of the first."""
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


def are_equal(a, b) -> bool:
    """Whether two dicts of tensors are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TensorModel:
    """Stands in for an `AdaptedModel` where only its tensors matter."""

    def __init__(self, tensors, rows=None) -> None:
        self._parameters = {name: nn.Parameter(tensor.clone()) for name, tensor in tensors.items()}
        self.names, self.frozen_delta, self.rows = tuple(tensors), {}, dict(rows or {})

    def read(self):
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def write(self, tensors) -> None:
        for name, tensor in tensors.items():
            assert self._parameters[name].shape == tensor.shape, name
            self._parameters[name].copy_(tensor)

    def parameters(self, names=None):
        return [self._parameters[name] for name in (self.names if names is None else names)]

    def snapshot(self):
        return self.read() | self.frozen_delta

    def restore(self, tensors) -> None:
        self.write({name: tensor for name, tensor in tensors.items() if name in self.names})
        self.frozen_delta = {name: tensor for name, tensor in tensors.items() if name not in self.names}

    def set_frozen_delta(self, tensors) -> None:
        self.frozen_delta = dict(tensors)

    def set_rows(self, rows) -> None:
        self.rows = dict(rows)

    def get_rows(self):
        return dict(self.rows)

    def get_dimensions(self):
        return dict(SHAPES)


def make_client(initial=None, trained=None, kept=None, resources=None, scores=None, client="c0") -> Client:
    """A client without examples; `scores(model, split)` stands in for its task where that is given."""
    spec = ClientSpec(client, 5, resources or ClientResources())
    made = Client(spec, {}, None, None, initial or {}, 0, ClientState(trained, kept or {}))
    if scores is not None:
        made.scores = scores
    return made
