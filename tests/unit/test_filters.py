"""A model's own filters of sampling, switched off for a while."""

import pytest
import torch
from families import tiny

from dola.filters import NO_FILTERS, without_top_h

SAMPLING = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 12, **NO_FILTERS}


def sampled(model):
    torch.manual_seed(0)
    return model.generate(torch.tensor([[5, 17, 200]]), **SAMPLING).tolist()


def test_top_h_is_off_inside_and_back_behind():
    model = tiny("llama")
    expected = sampled(model)
    model.generation_config.top_h = 0.1
    own = model.generation_config
    assert sampled(model) != expected
    with without_top_h(model):
        assert sampled(model) == expected
    with pytest.raises(KeyError), without_top_h(model):
        raise KeyError
    assert model.generation_config is own
    assert own.top_h == 0.1
