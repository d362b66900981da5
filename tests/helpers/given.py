"""Data and models as a program gives them."""

import torch
from conftest import sentences
from torch import nn
from transformers import AutoTokenizer

ROWS = sentences(240, 0)
SETTINGS = {
    "name": "tiny",
    "model": {"max_length": 16},
    "task": {},
    "partition": {"kind": "natural", "column": "site"},
    "training": {"rounds": 2, "batch_size": 4},
    "methods": {"fedit": {"lr": 5e-3}, "local": {"lr": 5e-3}},
}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, states):
        return states + self.down(torch.relu(self.up(states)))


class OwnModel(nn.Module):
    """No transformers model: an embedding and two blocks."""

    def __init__(self, vocabulary, width=16):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])

    def forward(self, input_ids, attention_mask=None):
        states = self.embedding(input_ids)
        for block in self.blocks:
            states = block(states)
        return states


def make_own_model(tokenizer_folder, seed=0):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OwnModel(len(tokenizer)), tokenizer


def group_by_site(rows):
    return {site: [row for row in rows if row["site"] == site] for site in ("site0", "site1", "site2")}
