"""What a forward is called with, whatever transformers names it."""

from types import SimpleNamespace

import pytest
from families import tiny
from transformers import DynamicCache

from dola.model.hidden import cache_name


def old(input_ids, past_key_values=None):
    """transformers before 5.24."""


def new(input_ids, cache=None):
    """transformers from 5.24 on."""


def both(input_ids, past_key_values=None, cache=None):
    """A model's own code, whose `cache` may be anything."""


def any_of_them(input_ids, **kwargs):
    """A wrapper: from 5.24 on transformers takes the old name too."""


@pytest.mark.parametrize(
    ("forward", "name"),
    [(old, "past_key_values"), (new, "cache"), (both, "past_key_values"), (any_of_them, "past_key_values")],
)
def test_the_name_of_the_cache(forward, name):
    assert cache_name(SimpleNamespace(forward=forward)) == name


def test_a_model_takes_it_and_returns_it_by_that_name():
    """Warnings are errors: one of a deprecated name fails."""
    model = tiny("llama")
    cache, name = DynamicCache(config=model.config), cache_name(model)
    output = model(model.dummy_inputs["input_ids"], **{name: cache}, use_cache=True)
    assert getattr(output, name) is cache
