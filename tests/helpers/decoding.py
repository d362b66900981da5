"""Three prompts with targets for the tiny decoder, and their likelihood one row at a time."""

import torch

from fedpeft.tasks.encode import Padding
from fedpeft.tasks.examples import Example

PADDING = Padding(0, "left")
EXAMPLES = [
    Example("we saw a film it was good", 0, target="answer is yes", answer="yes", choices=("yes", "no")),
    Example("dull", 1, target="answer is no", answer="no", choices=("yes", "no")),
    Example("the plane was broken again today", 1, target="answer is no", answer="no", choices=("yes", "no", "a film")),
]


def compute_log_probabilities(model, prompt, rest):
    """(len(rest),): log probability of each token of `rest` after the prompt, without padding, from all logits."""
    ids = torch.tensor([[*prompt, *rest]])
    is_prompt = torch.arange(ids.shape[1])[None] < len(prompt)
    with model.use_prompt(is_prompt), torch.no_grad():
        logs = model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
    return torch.stack([logs[len(prompt) + i - 1, token] for i, token in enumerate(rest)])


def compute_loss(model, prompt, rest):
    """Cross entropy summed over `rest`."""
    return -float(compute_log_probabilities(model, prompt, rest).sum())
