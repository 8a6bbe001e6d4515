"""`dola.score` under the reference's recipes, against teacher-forced scoring as voidism/DoLa does it (tests/reference)."""

import pytest
import torch
from command import tokenizer
from families import tiny
from reference import scoring as judge

import dola
from dola import DoLaConfig, Recipe
from dola.errors import ConfigError
from dola.methods.layers import candidate_layers
from dola.model.anatomy import Anatomy
from dola.tasks import TASKS

ITEMS = [
    ("Q: What is the cat?\nA:", [" A cat.", " It is an animal that eats fish.", " I have no comment."]),
    ("Q: What is the cat?\nA: Nothing.\n\nQ: Why?\nA:", [" Because.", " So it is."]),
    ("The", [" end"]),
]


def judged(model, words, items, recipe, **settings):
    return [[judge.lm_score(model, words, c, text, recipe, **settings).total for text in texts] for c, texts in items]


def layers_of(model, bucket):
    anatomy = Anatomy.of(model)
    return candidate_layers(bucket, anatomy.num_layers, tied=anatomy.tied)


def scored(model, words, items, recipes):
    contexts, continuations = zip(*items, strict=True)
    return dola.score(model, words, contexts, continuations, recipes, progress=False).values


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("bucket", ["low", "high"])
def test_the_references_recipes_on_tiny_models(name, bucket):
    model, words = tiny(name, vocab_size=512, dtype=torch.float64), tokenizer()
    layers = layers_of(model, bucket)
    found = scored(
        model, words, ITEMS, {"tfqa": Recipe.truthfulqa(bucket), "factor": Recipe.factor(bucket), "plain": Recipe(None)}
    )
    expected = {
        "tfqa": judge.Recipe(layers),
        "factor": judge.Recipe(layers, relative_top=0.1, post_softmax=True),
        "plain": judge.Recipe(None),
    }
    for each, recipe in expected.items():
        for ours, theirs in zip(found[each], judged(model, words, ITEMS, recipe, dtype=torch.float64), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-8, rel=1e-7 if name == "gemma2" else 0)  # its norms are in float32
    assert found["tfqa"] != found["factor"] != found["plain"]


class Positions:
    """Logits of a layer, read out where they are asked for: the judge looks at a dozen positions of three hundred."""

    def __init__(self, head, hidden):
        self.head, self.hidden = head, hidden

    def to(self, dtype):
        assert self.hidden.dtype == dtype
        return self

    def __getitem__(self, position):
        return self.head(self.hidden[position])


@torch.no_grad()
def test_the_references_recipe_on_eight_questions_of_truthfulqa(smollm2, published):
    """Within 1e-2 nats for each sum, in float32; the first answer of each, because the judge takes some seconds for one."""
    model, words = smollm2
    items = TASKS["truthfulqa-mc"].items(published("truthfulqa/TruthfulQA.csv"))[:8]
    pairs = [(item.context, list(item.continuations[:1])) for item in items]
    found = scored(model, words, pairs, {"tfqa": Recipe.truthfulqa("high")})["tfqa"]
    recipe, head = judge.Recipe(layers_of(model, "high")), model.get_output_embeddings()
    expected = judged(model, words, pairs, recipe, readout=lambda hidden: Positions(head, hidden))
    assert str(model.dtype) == "torch.float32"
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-2)


def test_the_recipes_are_the_papers():
    reference = {"divergence": "reference", "final_norm": False}
    assert Recipe.truthfulqa() == Recipe(DoLaConfig("high", relative_top=0.0, **reference), softmax="none", floor=-1000.0)
    assert Recipe.factor() == Recipe(DoLaConfig("low", relative_top=0.1, **reference), softmax="full", floor=-1000.0)
    with pytest.raises(ConfigError, match="softmax='soft' is unknown; allowed are 'masked', 'full', 'none'"):
        Recipe(None, softmax="soft")
