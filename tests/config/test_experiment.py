"""The typed experiment: bounds of its fields, which method a label stands for, and its learning rates."""

import pytest

from fedpeft.config import Experiment, load_experiment
from fedpeft.config import experiment as module
from fedpeft.errors import UserError


def make(**changes):
    raw = {
        "name": "e", "model": {"name": "m"}, "task": {"source": "d.csv"}, "partition": {"kind": "iid", "clients": 2},
        "methods": {"fedit": {}, "mine": {"method": "fedreft"}},
    }  # fmt: skip
    return Experiment.model_validate(raw | changes)


@pytest.mark.parametrize(
    ("setting", "most"),
    [
        ("workers={}", 1024),
        ("max_clients={}", 10_000),
        ("seed={}", 2**31 - 1),
        ("model.max_length={}", 10**6),
        ("training.rounds={}", 10**6),
        ("training.local_epochs={}", 10**5),
        ("training.batch_size={}", 2**16),
        ("partition.clients={}", 10**6),
        ("task.max_new_tokens={}", 10**5),
        ("prefix_cache={{limit_mib: {}}}", 2**30),
        ("resources=[{{rank: {}}}]", 2**16),
        ("resources=[{{memory_mib: {}}}]", 2**30),
    ],
)
def test_a_field_has_a_bound_far_above_any_use(experiment_file, setting, most):
    load_experiment(experiment_file, [setting.format(most)])
    with pytest.raises(UserError, match=f"less than or equal to {most}"):
        load_experiment(experiment_file, [setting.format(most + 1)])


def test_a_label_stands_for_its_method():
    experiment = make()
    assert experiment.get_method_name("mine") == "fedreft"
    assert experiment.get_method_name("hetlora") == "hetlora"  # known, though not in the file
    with pytest.raises(UserError, match="unknown method 'min', did you mean 'mine'"):
        experiment.get_method_name("min")


def test_a_method_of_this_package_is_found_without_reading_other_packages(monkeypatch):
    monkeypatch.setattr(module, "list_methods", lambda: pytest.fail("reads every installed package's metadata"))
    assert make().build_method("mine").options.lr > 0


def test_rates_are_checked_one_by_one():
    experiment = make(methods={"fedit": {"lr": ["1e-3", 2]}, "mine": {"method": "fedit", "lr": 0.1}, "local": {}})
    assert experiment.list_learning_rates("fedit") == [1e-3, 2.0]
    assert experiment.list_learning_rates("mine") == experiment.list_learning_rates("local") == [None]
    assert experiment.build_method("fedit", 0.5).options.lr == 0.5
    for rates in ([], [[]], [None], ["fast"], [1e-3, float("nan")]):
        with pytest.raises(UserError, match=r"methods\.fedit\.lr"):
            make(methods={"fedit": {"lr": rates}}).list_learning_rates("fedit")


def test_a_rate_that_compare_finds_has_a_start():
    experiment = make(methods={"fedit": {"lr": "auto"}, "mine": {"method": "fedit", "lr": {"start": 0.1}}, "local": {}})
    assert [experiment.is_rate_searched(label) for label in ("fedit", "mine", "local")] == [True, True, False]
    assert experiment.list_learning_rates("fedit") == [1e-3]  # the method's own
    assert experiment.list_learning_rates("mine") == [0.1]
    with pytest.raises(UserError, match=r"methods\.mine\.lr is to be found.*--set methods\.mine\.lr=0\.1$"):
        experiment.build_method("mine")
    for rate in ({}, {"start": -1}, {"start": None}, {"start": 1e-3, "factor": 2}, {"begin": 1}):
        with pytest.raises(UserError, match=r"methods\.fedit\.lr"):
            make(methods={"fedit": {"lr": rate}}).list_learning_rates("fedit")
    with pytest.raises(ValueError, match="trials"):
        make(tuning={"trials": 2})


def test_a_model_lies_on_one_device_or_on_several_of_one_type(monkeypatch):
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 2)
    for device, devices in (("cpu", ["cpu"]), (["cpu", "cpu"], ["cpu", "cpu"]), ("cuda:all", ["cuda:0", "cuda:1"])):
        assert make(model={"name": "m", "device": device}).model.devices == devices
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 0)
    assert make(model={"name": "m", "device": "cuda:all"}).model.devices == ["cuda"]  # which says that there is none


@pytest.mark.parametrize("more", [{"quantization": "4bit"}, {"device_map": "auto"}, {"device": ["cuda:0", "cpu"]},
                                  {"device": []}, {"device": ["cuda:all", "cuda:0"]}])  # fmt: skip
def test_devices_that_do_not_go_together_are_refused(more):
    with pytest.raises(ValueError, match=r"device: .*received") as error:
        make(model={"name": "m", "device": ["cuda:0", "cuda:1"], **more})
    assert len(str(error.value)) < 500
