"""One forward and backward of a tiny slot, for tests that compare two ways of computing it."""

import torch

LABELS = torch.tensor([0, 1, 2])


def step(slot, batch, labels=LABELS):
    """Logits, loss and gradients by name."""
    output = slot.model(**batch, labels=labels)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in zip(slot.names, slot.parameters(), strict=True)}
    for parameter in slot.parameters():
        parameter.grad = None
    return {"logits": output.logits.detach(), "loss": output.loss.detach()} | gradients


def assert_close(one, other, share):
    """Tensor by tensor, as a share of its size."""
    assert one.keys() == other.keys()
    for name in one:
        difference = (one[name] - other[name]).norm()
        assert difference <= share * other[name].norm() + 1e-12, name
