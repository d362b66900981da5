"""Several devices: one backbone each, results to the bit as on one, and a worker's place taken with its device."""

import threading

import pytest
import torch
from helpers.engines import EXAMPLES, LIKE, LORA, REFT, UNLIKE, built, classifier, largest_difference, made, rounds
from helpers.tasks import make_classification

from fedpeft.acceleration import make_accelerations
from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.engines import find_engine
from fedpeft.engines.base import EngineSetup
from fedpeft.engines.replicas import Replicas
from fedpeft.engines.workers import Workers

UPPER = {"adapter": LORA["adapter"] | {"layers": [1]}}  # the first block is frozen
WORK = {"local": "_train_one", "batched": "_train_group"}


def build(name, method, devices, resources=LIKE, accelerations=None):
    """An engine with two workers on these devices, each of which takes part in the first round; the server's start."""
    local, state = built(method, classifier(), make_classification(), resources)
    local.close()
    setup = EngineSetup(method, list(local.by_id.values()), local.templates, local.training, 0, 2,
                        accelerations or make_accelerations(), 3, devices)  # fmt: skip
    engine = find_engine(name).make(setup)
    work, barrier, own = getattr(engine, WORK[name]), threading.Barrier(2), threading.local()

    def meet_first(item):
        if not hasattr(own, "has_met"):
            own.has_met = True
            barrier.wait(20)
        return work(item)

    setattr(engine, WORK[name], meet_first)
    return engine, state


@pytest.mark.parametrize("name", ["local", "batched"])
@pytest.mark.parametrize(
    ("label", "options", "resources"),
    [("fedit", LORA, LIKE), ("fedavg_loreft", REFT, LIKE), ("local", LORA, UNLIKE), ("ditto", LORA, LIKE)],
)
def test_two_devices_give_the_bits_of_one(name, label, options, resources):
    results = []
    for devices in (("cpu",), ("cpu", "cpu")):
        method = made(label, **options)
        results.append(rounds(method, *build(name, method, devices, resources)))
    assert largest_difference(*results) == 0.0


def test_the_prefix_cache_is_one_for_all_devices():
    """Whichever device computed a sequence's states, the others find them."""
    results = []
    for devices in (("cpu",), ("cpu", "cpu")):
        cache, method = PrefixCache(1), made("fedit", **UPPER)
        results.append(rounds(method, *build("local", method, devices, accelerations=(cache,))))
        assert cache.stats.sequences == cache.stats.computed == sum(EXAMPLES)
    assert largest_difference(*results) == 0.0


def list_frozen(model):
    trained = {id(parameter) for parameter in model.parameters()}
    return [tensor for tensor in [*model.model.parameters(), *model.model.buffers()] if id(tensor) not in trained]


def test_a_device_holds_the_backbone_once_and_clones_share_it():
    """Two templates of unlike ranks, and clones of both, on the second device."""
    engine, _ = built(made("local", **LORA), classifier(), make_classification(), UNLIKE)
    engine.close()
    replicas = Replicas(("cpu", "cpu"))
    first, other = engine.templates["c0"], engine.templates["c1"]
    assert replicas.get(first, 0) is first is replicas.get(first, 2)
    copies = [replicas.get(template, 1) for template in (first, other)]
    assert replicas.get(first, 3) is copies[0] is not first
    own, theirs = ({id(p) for p in model.base.parameters() if not p.requires_grad} for model in (first, copies[0]))
    assert not own & theirs
    assert theirs == {id(p) for p in copies[1].clone().base.parameters() if not p.requires_grad}
    for model, replica in zip((first, other), copies, strict=True):
        assert all(torch.equal(model.read()[name], tensor) for name, tensor in replica.read().items())
        pairs = zip(list_frozen(model), list_frozen(replica), strict=True)
        assert all(a.data_ptr() != b.data_ptr() and torch.equal(a, b) for a, b in pairs)


def test_without_devices_a_template_is_its_own():
    engine, _ = built(made("fedit", **LORA), classifier(), make_classification(), LIKE)
    engine.close()
    assert Replicas(()).get(engine.templates["c0"], 5) is engine.templates["c0"]


@pytest.mark.parametrize("name", ["local", "batched"])
@pytest.mark.parametrize(("devices", "backbones"), [(("cpu",), 1), (("cpu", "cpu"), 2)])
def test_every_worker_trains_on_its_devices_own_backbone(name, devices, backbones):
    method, addresses = made("fedit", **LORA), {}
    engine, state = build(name, method, devices)
    clone = engine._clone

    def note_backbone(template):
        model = clone(template)
        embedding = next(p for p in model.base.parameters() if not p.requires_grad)
        addresses.setdefault(engine._own.number, set()).add(embedding.data_ptr())
        return model

    engine._clone = note_backbone
    rounds(method, engine, state, count=1)
    assert addresses.keys() == {0, 1} and all(len(own) == 1 for own in addresses.values())
    assert len(addresses[0] | addresses[1]) == backbones


def test_who_takes_the_place_of_an_abandoned_worker_takes_its_device():
    numbers, release, barrier = [], threading.Event(), threading.Barrier(2)

    def hang_in_the_second(item):
        barrier.wait(20)
        if threading.current_thread().number == 1:
            release.wait(20)

    workers = Workers(2, prepare=numbers.append)
    assert len(list(workers.run(hang_in_the_second, range(2), deadline=1))) == 2
    list(workers.run(lambda item: barrier.wait(20), range(2)))
    assert sorted(numbers) == [0, 1, 1]
    release.set()
    workers.close()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this torch sees fewer than two GPUs")
@pytest.mark.parametrize("name", ["local", "batched"])
def test_two_gpus_give_the_bits_of_one(name):
    results = []
    for devices in (("cuda:0",), ("cuda:0", "cuda:1")):
        method = made("fedit", **LORA)
        engine, state = build(name, method, devices)
        for template in set(engine.templates.values()):
            template.model.to("cuda:0")
        results.append(rounds(method, engine, state))
    assert largest_difference(*results) == 0.0
