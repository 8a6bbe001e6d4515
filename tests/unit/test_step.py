"""The cheap ways of a step against the float64 reference and against one another, and the plan that chooses between them."""

import math

import pytest
import torch
from families import FAMILIES, tiny
from reference import dola_float64 as judge

import dola
from dola import native
from dola.contrast import IMPLAUSIBLE, contrast
from dola.decoding.call import Generation
from dola.decoding.candidates import compared
from dola.decoding.cost import cheaper_together, product_cost
from dola.decoding.step import Step
from dola.errors import InputError
from dola.methods.method import Candidates
from dola.methods.sparse import contenders, sparse


class Given(Candidates):
    """Candidates whose logits [K, R, V] are given; with the kernels' help or without."""

    def __init__(self, premature, kernel):
        self.premature, self.kernel = premature, kernel

    def __len__(self):
        return len(self.premature)

    def logits(self, k=None, rows=None):
        return self.premature[:, rows] if k is None else self.premature[k][rows]

    def combined(self, mature, weights, rows=None):
        raise NotImplementedError

    def read(self, mature, log_z, rows, *, jsd):
        found = super().read(mature, log_z, rows, jsd=jsd)
        return compared(found, mature, log_z, rows, jsd=jsd) if self.kernel else found


def row_scores(mature, premature, *, relative_top=0.1, divergence="jsd", kernel=False):
    how = {"relative_top": relative_top, "divergence": divergence, "strength": 1.0, "scores": "contrast", "lazy": False}
    return sparse(mature[None], Given(premature[:, None], kernel), **how)[0]


def example(vocab, candidates, scale, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mature = scale * torch.randn(vocab, generator=generator)
    # Candidates from close to the mature layer to far from it, as layers are.
    steps = torch.linspace(0.05, 2, candidates)[:, None]
    return mature.to(dtype), (mature + steps * scale * torch.randn(candidates, vocab, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("divergence", ["jsd", "reference"])
@pytest.mark.parametrize("relative_top", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(("vocab", "candidates", "scale"), [(2, 2, 1), (401, 1, 4), (401, 5, 4), (1271, 8, 0.5), (1271, 8, 9)])
def test_a_row_against_the_reference(vocab, candidates, scale, relative_top, divergence, dtype, kernel):
    mature, premature = example(vocab, candidates, scale, dtype)
    found = row_scores(mature, premature, relative_top=relative_top, divergence=divergence, kernel=kernel)
    exact = judge.contrast(mature.double().tolist(), premature.double().tolist(), relative_top, divergence)
    inside = torch.tensor([x > -math.inf for x in exact])
    torch.testing.assert_close(found[inside].double(), torch.tensor(exact, dtype=torch.float64)[inside], atol=5e-5, rtol=1e-5)
    below = torch.tensor(judge.log_softmax(mature.double().tolist()), dtype=torch.float64) - IMPLAUSIBLE
    torch.testing.assert_close(found[~inside].double(), below[~inside], atol=5e-4, rtol=0)


@pytest.mark.parametrize("seed", range(40))
def test_bounds_leave_the_candidate_that_diverges_most(seed):
    """Peaked, flat and saturated distributions, with candidates that diverge almost alike."""
    scale = (0.3, 2, 6, 15)[seed % 4]
    mature, premature = example(3000, 6, scale, seed=seed)
    mature[seed] += 3 * scale
    premature[3] = premature[5] + 1e-3 * torch.randn(3000, generator=torch.Generator().manual_seed(seed))
    left = contenders(mature.log_softmax(-1), premature, premature.logsumexp(-1))
    values = [judge.jsd(mature.double().tolist(), q.double().tolist()) for q in premature]
    assert values.index(max(values)) in left
    scores = row_scores(mature, premature)
    # Candidates 3 and 5 may tie in float32; their logits are 1e-3 apart.
    torch.testing.assert_close(scores, contrast(mature, premature), atol=1e-2, rtol=0)


def test_bounds_leave_few_candidates_of_many():
    mature, premature = example(5000, 8, 3)
    mature[7] += 22
    premature[:4, 7] += 22
    assert len(contenders(mature.log_softmax(-1), premature, premature.logsumexp(-1))) < 8


@pytest.mark.parametrize("kernel", [True, False])
def test_nan_is_not_passed_over(kernel):
    mature, premature = example(50, 3, 2)
    premature[1, 4] = math.nan
    assert row_scores(mature, premature, kernel=kernel).amax().isnan()
    mature[3] = math.nan
    assert row_scores(mature, premature, kernel=kernel).amax().isnan()


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("scores", ["contrast", "distribution"])
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("kernel", [True, False])
def test_rows_of_a_batch_are_scored_as_the_definition_scores_them(strength, scores, lazy, kernel):
    """Some rows have one plausible token; the others ask for different layers."""
    each = [example(700, 4, scale, seed=seed) for seed, scale in enumerate((0.5, 3, 9, 2, 0.1))]
    mature, premature = torch.stack([one for one, _ in each]), torch.stack([others for _, others in each], dim=1)
    mature[2, 5] += 90
    premature[1, 3] *= 5
    given = Given(premature, kernel)
    found = sparse(mature, given, relative_top=0.1, divergence="jsd", strength=strength, scores=scores, lazy=lazy)
    exact = contrast(mature, premature, strength=strength, scores=scores)
    assert torch.equal(found.argmax(-1), exact.argmax(-1))
    settled = (exact > -500).sum(-1) == 1 if scores == "contrast" else torch.tensor([False] * 5)
    torch.testing.assert_close(found[~settled], exact[~settled], atol=3e-4, rtol=1e-4)
    assert given.saved == (0 if not lazy else 5 if scores == "distribution" and strength == 0 else 1)


WAYS = {
    "kernel": ([True], True),
    "together": ([True], False),
    "apart": ([False], False),
}


def tokens_and_scores(model, way, monkeypatch, **settings):
    (together,), kernel = WAYS[way]
    if kernel and native.why_not():
        pytest.skip(f"no compiled kernel here: {native.why_not()}")
    with monkeypatch.context() as patch:
        patch.setattr(Step, "_plan", lambda self, *key: together)
        if not kernel:
            patch.setattr(native, "suits", lambda head: False)
        ids = torch.tensor([[5, 17, 200, 33, 8, 91, 4], [9, 3, 44, 8, 61, 7, 7]])
        with dola.attach(model, settings.pop("config", "all")) as attached:
            scores = model(ids).logits
            tokens = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False, **settings)
        return tokens, scores, attached


@pytest.mark.parametrize("way", ["kernel", "together"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "opt", "gpt2", "mpt"])
@pytest.mark.parametrize(
    "config", ["all", dola.DoLaConfig.reference("all"), [2], dola.DoLaConfig("all", relative_top=0, lazy=False)]
)
def test_read_together_or_apart_is_the_same(way, name, config, monkeypatch):
    model = tiny(name)
    with torch.no_grad():  # random models are nearly uniform, and then the divergences of layers tie in float32
        model.get_submodule(FAMILIES[name].final_norm).weight *= 2
    tokens, scores, attached = tokens_and_scores(model, way, monkeypatch, config=config)
    apart_tokens, apart_scores, apart = tokens_and_scores(model, "apart", monkeypatch, config=config)
    torch.testing.assert_close(scores, apart_scores, atol=3e-4, rtol=1e-4)
    assert torch.equal(tokens, apart_tokens)
    assert (attached.rows, attached.rows_saved) == (apart.rows, apart.rows_saved)


def test_a_head_with_other_hooks_is_read_apart(llama, ids):
    seen = []
    handle = llama.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    with dola.attach(llama, "high"):
        llama.generate(input_ids=ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    handle.remove()
    # Each forward is followed by the check of the readout and by its two candidates, each as if it were the model's own.
    assert seen == [(1, 1, 401)] * 3 * 4


def test_the_head_reads_once_where_that_is_cheaper(llama, ids, monkeypatch):
    calls = []
    monkeypatch.setattr(native, "suits", lambda head: False)
    original = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: calls.append(x.shape) or original(x, w, b))
    with dola.attach(llama, "high"):
        llama.generate(input_ids=ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    monkeypatch.undo()
    head = [shape for shape in calls if shape[:-1] in ((3, 1), (1, 1), (1,))]
    assert torch.Size([3, 1, 32]) in head  # one mature and two premature rows


@pytest.mark.parametrize("way", ["kernel", "together"])
def test_a_call_with_gradients_on_is_contrasted_without_them(llama, ids, way, monkeypatch):
    if way == "together":
        monkeypatch.setattr(native, "suits", lambda head: False)
    with torch.enable_grad(), dola.attach(llama, "high"):
        scores = llama(ids, logits_to_keep=1).logits
    assert not scores.requires_grad


def test_the_plan():
    assert product_cost(3, 8) == 1  # reading the weights is what it costs
    assert product_cost(80, 8) == 10
    assert cheaper_together(1, 8, bound=8, lazy=True)
    assert not cheaper_together(32, 8, bound=8, lazy=True)  # bound by arithmetic: undecided rows only
    assert cheaper_together(32, 8, bound=300, lazy=False)
    assert not cheaper_together(1000, 8, bound=8, lazy=True)


def test_on_an_accelerator_nan_is_reported_after_the_call():
    """On accelerators the host does not wait to check each step."""
    generation = Generation(None, None, 0.1)
    generation.check()
    generation.watch(torch.randn(2, 9))
    generation.check()
    generation.watch(torch.tensor([[0.0, math.nan]]))
    generation.watch(torch.randn(2, 9))
    with pytest.raises(InputError, match="NaN or infinite"):
        generation.check()
