"""One forward and backward of a tiny adapted model, for tests that compare two ways of computing it."""

import torch

LABELS = torch.tensor([0, 1, 2])


def step(model, batch, labels=LABELS):
    """Logits, loss and gradients by name, of an `AdaptedModel`."""
    output = model.model(**batch, labels=labels)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in zip(model.names, model.parameters(), strict=True)}
    for parameter in model.parameters():
        parameter.grad = None
    return {"logits": output.logits.detach(), "loss": output.loss.detach()} | gradients


def assert_close(actual, expected, tolerance):
    """The norm of each tensor's difference is at most `tolerance` times that of the expected tensor."""
    assert actual.keys() == expected.keys()
    for name in actual:
        difference = (actual[name] - expected[name]).norm()
        assert difference <= tolerance * expected[name].norm() + 1e-12, name
