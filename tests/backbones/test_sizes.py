"""A config.json that asks for more than the weights hold is one line, before anything is allocated."""

import json
import shutil
import time

import pytest
import torch
from transformers import AutoModel, BertConfig

from fedpeft.backbones.pretrained import load_pretrained
from fedpeft.backbones.sizes import require_stored_sizes
from fedpeft.errors import UserError


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"hidden_size": 1_000_000}, r"config\.json describes .* values, and the weights' files have \d+ bytes\."),
        ({"vocab_size": 10**9}, r"config\.json describes 3\.2e\+10 values"),
        ({"max_position_embeddings": 10**10}, r"config\.json describes 3\.4e\+11 values"),
        ({"hidden_size": 2**62}, ""),  # torch's own words: no tensor has so many
        ({"num_hidden_layers": 10**7}, r"config\.json: num_hidden_layers is 1e\+07, far more than its weights hold\."),
        ({"num_labels": 10**9}, r"config\.json: num_labels is 1e\+09, far more than its weights hold\."),
        ({"text_config": {"n_layers": 10**7}}, r"config\.json: n_layers is 1e\+07"),
        ({"x": "y" * (5 << 20)}, r"\S+config\.json holds more than 4 MiB"),
    ],
)
def test_enormous_sizes_are_refused_in_words(tiny_model, tmp_path, edits, reason):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | edits
    (folder / "config.json").write_text(json.dumps(config))
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"^backbone '{folder}' could not be loaded: {reason}"):
        load_pretrained(AutoModel, str(folder), dtype="float32", device="cpu")
    assert time.monotonic() - began < 20


def test_a_whole_model_is_accepted_and_no_random_number_is_drawn(tiny_model):
    before = torch.get_rng_state()
    require_stored_sizes(AutoModel, tiny_model)
    assert torch.equal(torch.get_rng_state(), before)


def test_tables_that_are_computed_may_be_larger_than_the_weights(tmp_path):
    AutoModel.from_config(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                     intermediate_size=8)).save_pretrained(tmp_path)  # fmt: skip
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100_000}))
    require_stored_sizes(AutoModel, tmp_path)  # which of the shapes is wrong is said when the weights are read


def test_a_folder_without_weights_is_left_to_transformers(tmp_path):
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 10000000}')
    require_stored_sizes(AutoModel, tmp_path)
