"""Tables of positions end: how long a sequence may be, as each architecture counts, checked by running it."""

import pytest
import torch

from fedpeft.backbones.positions import count_positions, require_positions
from fedpeft.errors import UserError


@pytest.mark.parametrize(("architecture", "count"), [("bert", 80), ("roberta", 78), ("mpnet", 78), ("gpt2", 64)])
def test_the_count_is_the_longest_sequence_that_runs(architecture, count, tiny):
    model = tiny(architecture)
    assert count_positions(model) == count
    ids = torch.full((1, count + 1), 5)
    with torch.no_grad():
        model(input_ids=ids[:, 1:])
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral"])
def test_rotary_positions_have_no_end(architecture, tiny):
    model = tiny(architecture)
    assert count_positions(model) is None
    require_positions(model, 10**9, "model.max_length")


def test_more_than_the_table_holds_is_one_line(tiny):
    require_positions(tiny("gpt2"), 64, "model.max_length")
    with pytest.raises(UserError, match=r"^model.max_length: .* has 64 positions; lower it. Received: 65 tokens"):
        require_positions(tiny("gpt2"), 65, "model.max_length")
