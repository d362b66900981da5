"""The fields of stored adapters: all that we write is read back, on every architecture; patterns match in no time."""

import json
import time

import pytest
from helpers.tiny_adapted import DECODERS, ENCODERS
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from pydantic import ValidationError

from fedpeft.adapters import LoReftConfig, make_lora_config
from fedpeft.adapters.lora.stored import StoredLora
from fedpeft.adapters.reft.stored import StoredReft
from fedpeft.backbones.blocks import make_block_pattern


def write(config):
    """The configuration as PEFT's file holds it, without its kind."""
    values = json.loads(json.dumps(config.to_dict(), default=list))
    del values["peft_type"]
    return values


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_lora_is_read_as_it_was_written(architecture, tiny_classifier):
    model = tiny_classifier(architecture)
    for layers, targets in (("all", "all-linear"), ([0, 2], "all-linear")):
        config = make_lora_config(model, 3, 1.5, layers, targets)
        stored = StoredLora.model_validate(write(config))
        assert write(stored.make_config()) == write(config)


@pytest.mark.parametrize("task_type", [None, "SEQ_CLS", "CAUSAL_LM"])
@pytest.mark.parametrize("layers", ["all", [1]])
def test_loreft_is_read_as_it_was_written(layers, task_type):
    config = LoReftConfig(r=3, layers=layers, positions="f2+l13", tied=True, variant="direft", task_type=task_type)
    assert write(StoredReft.model_validate(write(config)).make_config()) == write(config) | {"task_type": None}


def test_a_pattern_that_loreft_found_itself_is_read(tiny_classifier):
    pattern = make_block_pattern(tiny_classifier("gpt2"), [0, 2])
    values = write(LoReftConfig(target_modules=pattern))
    assert StoredReft.model_validate(values).make_config().target_modules == pattern


def test_ranks_and_scales_of_single_modules_are_read():
    names = {f"backbone.encoder.layer.{i}.attention.self.query": i + 1 for i in range(3)}
    config = LoraConfig(
        r=3, target_modules=r"a\.(0)\.(b|c\.d)", rank_pattern=names, alpha_pattern=names, fan_in_fan_out=True
    )
    assert write(StoredLora.model_validate(write(config)).make_config()) == write(config)


@pytest.mark.parametrize(
    "pattern",
    [
        r"a\.(0|1|0)\.(b)",
        r"a\.(0)\.(b|c\.d|b)",
        r"a\.(0)\.(b)\.(c)",
        r"a\.(0)\.(b+)",
        r"a.(0)\.(b)",
        r"a\.(0|)\.(b)",
        r"a\.(0)\.(b|)",
        r"(a)\.(0)\.(b)",
        "a\\.(0)\\.(b)\n",
        r"a\.(0)\.(?:b)",
        r"a\.(000000)\.(b)",
        "",
    ],
)
def test_another_pattern_is_none_of_ours(pattern):
    with pytest.raises(ValidationError):
        StoredLora.model_validate(write(LoraConfig(target_modules=pattern)))


def test_the_longest_pattern_is_matched_in_no_time():
    """A name that fits to its last letter, which is where a repetition would begin to try again."""
    numbers, modules = "|".join(map(str, range(5000))), "|".join(f"part{i}" for i in range(3500))
    stored = StoredLora.model_validate(write(LoraConfig(target_modules=rf"a\.({numbers})\.({modules})")))
    config = stored.make_config()
    began = time.perf_counter()
    for i in range(50):
        assert not check_target_module_exists(config, f"a.4999.part{i}0x")
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(("field", "value"), [("lora_dropout", 0.0), ("use_dora", False), ("eva_config", None)])
def test_fields_at_their_default_and_empty_ones_of_other_versions_are_read(field, value):
    values = write(LoraConfig(target_modules=r"a\.(0)\.(b)")) | {field: value, "of_a_later_version": None}
    StoredLora.model_validate(values)
