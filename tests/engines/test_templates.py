"""Templates share the backbone's tensors, start from the seed alone, and are one for equal configurations."""

import pytest
import torch
from helpers.engines import classifier

from fedpeft.adapters import make_lora_config
from fedpeft.engines.templates import TemplateCache, attach_adapter, use_seed


def test_a_seed_holds_inside_the_block_and_the_global_generator_goes_on_as_before():
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    with use_seed(0, "head"):
        inside = torch.randn(3)
    assert torch.equal(torch.randn(3), expected)
    with use_seed(0, "head"):
        assert torch.equal(torch.randn(3), inside)
    with use_seed(0, "adapter"):
        assert not torch.equal(torch.randn(3), inside)


def test_it_is_put_back_where_the_block_fails():
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    with pytest.raises(RuntimeError), use_seed(0, "head"):
        raise RuntimeError
    assert torch.equal(torch.randn(3), expected)


def test_adapters_share_every_frozen_tensor_and_leave_the_backbone_without_one():
    backbone = classifier()
    before = {name: id(parameter) for name, parameter in backbone.named_parameters()}
    first, second = (attach_adapter(backbone, make_lora_config(backbone, r, 4), 0) for r in (2, 4))
    assert {name: id(parameter) for name, parameter in backbone.named_parameters()} == before
    frozen = [{id(p) for p in model.parameters()} & set(before.values()) for model in (first, second)]
    assert frozen[0] == frozen[1] and len(frozen[0]) >= len(before) - 2  # the head is copied: it trains


def test_equal_configurations_have_one_template_and_others_their_own():
    backbone = classifier()
    cache = TemplateCache(backbone, 0)
    first = cache.get_template(make_lora_config(backbone, 2, 4))
    assert cache.get_template(make_lora_config(backbone, 2, 4)) is first
    assert cache.get_template(make_lora_config(backbone, 2, 8)) is not first
    assert cache.get_template(make_lora_config(backbone, 2, 4, layers=[1])) is not first


def test_a_start_depends_on_the_seed_alone():
    backbone = classifier()
    starts = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        template = TemplateCache(backbone, seed).get_template(make_lora_config(backbone, 2, 4))
        starts.append(torch.cat([tensor.flatten() for tensor in template.read().values()]))
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
