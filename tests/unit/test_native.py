"""The compiled kernels against float64: numbers of rows, odd vocabularies, NaN, infinities; and the messages without them."""

import math

import pytest
import torch
from reference import dola_float64 as judge
from torch import nn
from torch.nn.utils import parametrizations

from dola import native
from dola.contrast import DIVERGENCES, LARGEST_SCORE, WHOLE
from dola.methods.confident import entropy
from dola.native import build

needs_kernel = pytest.mark.skipif(native.why_not() is not None, reason=f"no compiled kernel here: {native.why_not()}")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The state of a new process, with an empty cache folder."""
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path))
    monkeypatch.delenv("DOLA_NATIVE", raising=False)
    for cached in (native.why_not, build.library):
        cached.cache_clear()
    yield tmp_path
    for cached in (native.why_not, build.library):
        cached.cache_clear()


def operands(vocab, width, rows, dtype):
    generator = torch.Generator().manual_seed(vocab + rows)
    return (torch.randn(n, width, generator=generator).to(dtype) for n in (vocab, rows))


def test_a_compiler_that_is_here_compiles_the_kernels():
    """Otherwise all tests of them would be skipped."""
    assert "failed" not in (native.why_not() or "")


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 255, 256, 257, 1271])
@pytest.mark.parametrize("rows", [*range(1, 14), 24, 37, 245])
def test_head_product_and_normalisers(vocab, rows, dtype):
    weight, x = operands(vocab, 96, rows, dtype)
    logits, log_z, entropies = native.head_product(weight, x)
    exact = x.double() @ weight.double().T
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.double(), exact, atol=1e-4, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5)
    torch.testing.assert_close(log_z.double(), logits.double().logsumexp(-1), atol=2e-6, rtol=2e-6)
    assert torch.equal(entropies, native.entropy(logits))  # which test_entropies judges


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_logits_that_it_has_alone(dtype):
    """Bit for bit, with any other rows beside it and any number of threads."""
    weight, x = operands(1271, 96, 250, dtype)
    together = native.head_product(weight, x)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    for row in (0, 11, 130, 249):
        for one, all_rows in zip(native.head_product(weight, x[row : row + 1]), together, strict=True):
            assert torch.equal(one[0], all_rows[row])
    torch.set_num_threads(threads)


@needs_kernel
def test_bfloat16_logits_are_rounded_to_nearest_even():
    weight = torch.zeros(4, 32, dtype=torch.bfloat16)
    weight[:, 0] = 1
    weight[:, 1] = torch.tensor([2**-8, 3 * 2**-8, 2**-9, 0])  # halfway down to even, halfway up to even, below half, nothing
    logits, *_ = native.head_product(weight, torch.ones(1, 32, dtype=torch.bfloat16))
    assert logits.float().tolist() == [[1.0, 1.015625, 1.0, 1.0]]


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_the_normaliser(dtype, bad):
    weight, x = operands(300, 32, 3, dtype)
    x[1] = bad
    logits, log_z, entropies = native.head_product(weight, x)
    assert log_z.isfinite().tolist() == [True, False, True]
    assert entropies.isfinite().tolist() == [True, False, True]
    assert not logits[1].isfinite().all()


def less_ln2(logits, log_z):
    """Divergences [K] of rows [K+1, V], mature first, in one row."""
    first = torch.zeros(1, dtype=torch.int64)
    rows = {"mature_rows": first, "rows": first}
    return native.jsd_less_ln2(logits[:1], log_z[:1], logits[1:, None], log_z[1:, None], **rows)[:, 0]


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("vocab", "candidates"), [(1, 1), (2, 2), (257, 3), (1271, 8)])
@pytest.mark.parametrize("scale", [0.1, 4, 40])
def test_divergences(vocab, candidates, scale, dtype):
    logits = (scale * torch.randn(candidates + 1, vocab, generator=torch.Generator().manual_seed(vocab))).to(dtype)
    if vocab > 2:
        logits[:, vocab // 2 :: 3] = -torch.inf  # a padded vocabulary
        logits[0, 1::7] = -torch.inf
        logits[1] = logits[0]
    found = less_ln2(logits, logits.float().logsumexp(-1))
    exact = [judge.jsd(logits[0].double().tolist(), row.double().tolist()) - math.log(2) for row in logits[1:]]
    torch.testing.assert_close(found.double(), torch.tensor(exact, dtype=torch.float64), atol=2e-6, rtol=0)


@needs_kernel
def test_far_layers_are_distinguished():
    """Their divergence is ln 2 in float32."""
    logits = torch.full((3, 300), -40.0)
    logits[0, 5] = logits[1, 6] = logits[2, 7] = 0.0
    logits[1, 5] = -30.0
    found = less_ln2(logits, logits.logsumexp(-1))
    assert (math.log(2) + found == torch.tensor(math.log(2))).all()
    assert -1e-9 < found[0] < found[1] < 0


@needs_kernel
def test_divergences_of_rows_that_are_apart():
    """Some rows of a batch, in any order, equal the rows alone, with any number of threads."""
    logits = torch.randn(4, 6, 700)
    log_z = logits.logsumexp(-1)
    mature_rows, rows = torch.tensor([5, 0, 3]), torch.tensor([2, 2, 4])
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    of_layers = log_z[1:, rows]
    found = native.jsd_less_ln2(logits[0], log_z[0, mature_rows], logits[1:], of_layers, mature_rows=mature_rows, rows=rows)
    torch.set_num_threads(threads)
    for i, (mine, its) in enumerate(zip(mature_rows, rows, strict=True)):
        alone = torch.cat([logits[0, mine][None], logits[1:, its]])
        assert torch.equal(found[:, i], less_ln2(alone, alone.logsumexp(-1)))


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [2, 300, 5003])
@pytest.mark.parametrize("scale", [0.3, 3, 15])
def test_bounds_leave_the_layer_that_diverges_most(dtype, vocabulary, scale):
    """Peaked, flat and saturated distributions, with layers from near to far and two that nearly tie."""
    generator = torch.Generator().manual_seed(vocabulary)
    mature = scale * torch.randn(6, vocabulary, generator=generator)
    mature[2:4, 1] += 9 * scale
    steps = torch.tensor([0.1, 0.3, 0.9, 0.9, 2.0])[:, None, None]
    layers = mature + steps * scale * torch.randn(5, 6, vocabulary, generator=generator)
    layers[3] = layers[2] + 1e-3 * torch.randn(6, vocabulary, generator=generator)
    mature, layers = mature.to(dtype), layers.to(dtype)
    rows = torch.arange(6)
    how = {"mature_rows": rows, "rows": rows}
    whole = native.jsd_less_ln2(mature, native.log_z(mature), layers, native.log_z(layers), **how)
    pruned = native.jsd_less_ln2(mature, native.log_z(mature), layers, native.log_z(layers), **how, prune=True)
    assert torch.equal(pruned.argmax(0), whole.argmax(0))
    several = (pruned > -torch.inf).sum(0) > 1
    kept = (pruned > -torch.inf) & several
    assert torch.equal(pruned[kept], whole[kept])
    layers[1, 0, 0] = math.nan
    pruned = native.jsd_less_ln2(mature, native.log_z(mature), layers, native.log_z(layers), **how, prune=True)
    assert pruned[:, 0].argmax() == 1  # NaN is not passed over


@needs_kernel
def test_a_candidate_that_is_nan_has_no_divergence():
    logits = torch.randn(3, 300)
    logits[2, 7] = math.nan
    assert less_ln2(logits, logits.logsumexp(-1)).isnan().tolist() == [False, True]


@needs_kernel
def test_the_default_dtype_and_device_of_the_user_do_not_matter():
    weight, x = operands(300, 32, 3, torch.float32)
    logits, log_z, _ = native.head_product(weight, x)
    divergence = less_ln2(logits, log_z)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            again = native.head_product(weight, x)
            opened = native.open_rows(logits, margin=-1.0, below=0.0)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(less_ln2(again.logits, again.log_z), divergence)
    assert torch.equal(opened.counts, native.open_rows(logits, margin=-1.0, below=0.0).counts)
    assert torch.equal(again.log_z, log_z)


class Scaled(nn.Linear):
    pass


@needs_kernel
def test_which_heads_suit():
    assert native.suits(nn.Linear(32, 5, bias=False))
    assert native.suits(nn.Linear(64, 5, bias=False, dtype=torch.bfloat16))
    for head in (
        nn.Linear(32, 5),
        nn.Linear(33, 5, bias=False),
        nn.Linear(32, 5, bias=False, dtype=torch.float16),
        nn.Linear(32, 5, bias=False, device="meta"),
        Scaled(32, 5, bias=False),
        parametrizations.weight_norm(nn.Linear(32, 5, bias=False)),
        nn.Embedding(5, 32),
        lambda rows: rows,
    ):
        assert not native.suits(head), head


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("DOLA_NATIVE", "0")
    assert native.why_not() == "DOLA_NATIVE=0"
    assert not native.suits(nn.Linear(32, 5, bias=False))


@needs_kernel
def test_it_is_compiled_once(fresh, monkeypatch):
    assert native.why_not() is None
    (kept,) = (fresh / "native").iterdir()
    before = kept.stat().st_mtime_ns
    for cached in (native.why_not, build.library):
        cached.cache_clear()
    monkeypatch.setattr(build, "_run", lambda *command: pytest.fail("compiled again"))
    assert native.why_not() is None
    assert kept.stat().st_mtime_ns == before


@needs_kernel
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"CC": "/nowhere/cc", "PATH": ""}, "no C compiler found"),
        ({"CC": "false"}, "false failed: no message"),
        ({"DOLA_CACHE": "/proc/none"}, "they cannot be saved in /proc/none/native"),
    ],
)
def test_the_message_names_what_is_missing(fresh, monkeypatch, what, words):
    for name, value in what.items():
        monkeypatch.setenv(name, value)
    assert words in native.why_not()


def test_only_linux_has_it(fresh, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert native.why_not() == "they are for Linux, and this is Windows"


@needs_kernel
def test_a_library_that_cannot_be_loaded(fresh, monkeypatch):
    broken = fresh / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(build, "_compiled", lambda openmp: broken)
    assert "broken.so cannot be loaded" in native.why_not()
    assert not broken.exists()  # so that the next process compiles it again


def test_torch_without_libgomp(fresh, monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", lambda self, *args: "7f00-7f01 r-xp 0 00:00 1 /lib/libc.so.6\n")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert native.why_not() == "torch does not use libgomp here"


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 31, 256, 401, 5000])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_many_rows_of_some_layers_beside_the_mature_ones(dtype, vocabulary, spread):
    """Spread 30 is a readout without the final norm: log-probabilities far below -87."""
    generator = torch.Generator().manual_seed(vocabulary)
    rows = torch.randn(3, 7, vocabulary + 5, generator=generator).to(dtype)[..., :vocabulary]
    mature, layers = (
        rows[0],
        [rows[1], (spread * torch.randn(7, vocabulary + 5, generator=generator)).to(dtype)[:, :vocabulary]],
    )
    found = native.compare(mature, native.log_z(mature), layers, jsd=True, reference=True, strengths=[1.0, 0.25])
    log_p, log_q = mature.double().log_softmax(-1), torch.stack(layers).double().log_softmax(-1)
    close = {"atol": 3e-6, "rtol": 2e-5}
    torch.testing.assert_close(native.log_z(mature).double(), mature.double().logsumexp(-1), **close)
    torch.testing.assert_close(found.log_z.double(), torch.stack(layers).double().logsumexp(-1), **close)
    for k, of_layer in enumerate(log_q):
        for name in ("jsd", "reference"):
            torch.testing.assert_close(getattr(found, name)[k].double(), DIVERGENCES[name](log_p, of_layer, WHOLE), **close)
        for s, strength in enumerate((1.0, 0.25)):
            gains = log_p - strength * of_layer
            torch.testing.assert_close(found.gain_log_z[s, k].double(), gains.logsumexp(-1), **close)
            torch.testing.assert_close(found.gain_largest[s, k].double(), gains.amax(-1), **close)


@needs_kernel
def test_what_is_not_asked_for_is_not_computed_and_changes_nothing():
    """Threads do not change results either, whichever rows each of them has."""
    mature, *layers = torch.randn(4, 5, 600, generator=torch.Generator().manual_seed(2))
    log_z = native.log_z(mature)
    whole = native.compare(mature, log_z, layers, jsd=True, reference=True, strengths=[0.5, 1.0])
    found = native.compare(mature, log_z, layers)
    assert found.jsd is found.reference is None
    assert found.gain_log_z.shape == found.gain_largest.shape == (0, 3, 5)
    assert torch.equal(found.log_z, whole.log_z)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    found = native.compare(mature, log_z, layers, jsd=True)
    strong = native.compare(mature, log_z, layers, strengths=[1.0])
    torch.set_num_threads(threads)
    assert torch.equal(found.jsd, whole.jsd)
    assert torch.equal(strong.gain_log_z[0], whole.gain_log_z[1])
    assert torch.equal(strong.gain_largest[0], whole.gain_largest[1])


@needs_kernel
def test_tokens_that_a_model_bans_by_minus_infinity():
    """In both layers alike; and in a layer alone, where F is the largest score that the contrast allows."""
    mature, premature = torch.randn(2, 300), torch.randn(2, 300)
    mature[:, 200:] = premature[:, 200:] = -torch.inf
    found = native.compare(mature, native.log_z(mature), [premature], jsd=True, reference=True, strengths=[1.0])
    log_p, log_q = mature.double().log_softmax(-1), premature.double().log_softmax(-1)
    for name in ("jsd", "reference"):
        torch.testing.assert_close(
            getattr(found, name)[0].double(), DIVERGENCES[name](log_p, log_q, WHOLE), atol=3e-6, rtol=2e-5
        )
    gains = (log_p - log_q)[:, :200]
    torch.testing.assert_close(found.gain_log_z[0, 0].double(), gains.logsumexp(-1), atol=3e-6, rtol=2e-5)
    premature[:, 5] = -torch.inf
    found = native.compare(mature, native.log_z(mature), [premature], reference=True, strengths=[1.0])
    assert (found.gain_largest == LARGEST_SCORE).all()
    judged = DIVERGENCES["reference"](mature.log_softmax(-1), premature.log_softmax(-1), WHOLE)
    assert found.reference[0].equal(judged)  # infinite: the layer rules out what the mature one does not
    premature[0, 5], mature[0, 5], premature[1, 5], mature[1, 5] = 0.5, -torch.inf, -torch.inf, -1e3  # the other way; no mass
    found = native.compare(mature, native.log_z(mature), [premature], reference=True)
    assert found.reference is not None
    assert found.reference[0].isinf().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_log_z_works_for_any_logits(dtype, strided):
    logits = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    logits = logits[..., ::2] if strided else logits
    found = native.log_z(logits)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), logits.double().logsumexp(-1), atol=2e-6, rtol=2e-6)


def test_layers_of_two_dtypes_are_not_compared_by_the_kernel():
    one = torch.zeros(2, 4)
    assert native.compares(one, one) is (native.why_not() is None)
    assert not native.compares(one, one.bfloat16())
    assert not native.compares(one.double(), one.double())


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 255, 700])
def test_sums_outside_a_set_of_tokens(dtype, vocabulary):
    """Against float64; the layers are rows of a wider tensor, and one column has no token."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(4, 2, vocabulary + 3, generator=generator)).to(dtype)[..., :vocabulary]
    if vocabulary > 1:
        logits[..., 1] = -torch.inf
    mature, premature = logits[0], logits[1:]
    inside = torch.rand(2, vocabulary, generator=generator) < 0.3
    found = native.sums_outside(mature, premature, native.log_z(premature), inside)
    d = torch.where(mature == -torch.inf, 0, premature.double() - mature.double())
    q = premature.double().softmax(-1).masked_fill(inside, 0)
    expected = torch.stack([each.sum(-1) for each in (q, q**2, q * d, d**2)])
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=2e-5)


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 7, 257, 5000])
@pytest.mark.parametrize("scale", [0.01, 3, 100])
def test_entropies(dtype, vocabulary, scale):
    logits = (scale * torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(vocabulary))).to(dtype)
    logits[1, : vocabulary // 2] = -torch.inf
    log_p = logits.double().log_softmax(-1)
    exact = -torch.where(log_p > -torch.inf, log_p.exp() * log_p, 0).sum(-1)
    torch.testing.assert_close(native.entropy(logits).double(), exact, atol=3e-6, rtol=3e-6)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    again = native.entropy(logits[1:2])
    torch.set_num_threads(threads)
    assert torch.equal(again, native.entropy(logits)[1:2])


@needs_kernel
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_entropy_and_ends_the_walk(bad, monkeypatch):
    logits = torch.zeros(2, 600)
    logits[1, 300] = bad
    assert native.entropy(logits).isnan().tolist() == [False, True]
    with_kernel = entropy(logits)
    monkeypatch.setattr(native, "reads", lambda logits: False)
    torch.testing.assert_close(entropy(logits), with_kernel)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, *DTYPES], ids=str)
@pytest.mark.parametrize("vocabulary", [1, 30, 256, 40_001])
@pytest.mark.parametrize("margin", [-math.inf, -2.3, 0.0])
@pytest.mark.parametrize("known", [False, True])
def test_plausible_tokens_and_the_floor(dtype, vocabulary, margin, known):
    """Rows of a wider tensor; ties at the top, a banned token, and the last token plausible."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (3 * torch.randn(4, vocabulary + 3, generator=generator)).to(dtype)[:, :vocabulary]
    logits[1, 0] = logits[1, -1] = logits[1].amax() + 1
    logits[2, vocabulary // 2] = -torch.inf if vocabulary > 1 else 0
    wide = logits.to(torch.promote_types(dtype, torch.float32))
    log_z = wide.logsumexp(-1)
    found = native.open_rows(logits, margin=margin, below=1000.0, log_z=log_z if known else None)
    inside = wide >= (wide.amax(-1) + margin)[:, None]
    assert torch.equal(torch.stack([found.rows, found.tokens]), inside.nonzero().T)
    assert torch.equal(found.counts, inside.sum(-1))
    torch.testing.assert_close(found.log_z, log_z, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(found.scores, wide - (log_z + 1000)[:, None], atol=2e-4, rtol=0)
    assert torch.equal(native.open_rows(logits, margin=margin, below=None).scores, wide)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_without_a_distribution_have_no_finite_score(bad):
    logits = torch.randn(3, 700)
    logits[1, :: 1 if bad == -math.inf else 300] = bad
    found = native.open_rows(logits, margin=-2.3, below=1000.0)
    assert found.scores.amax(-1).isfinite().tolist() == [True, False, True]
    assert (found.counts[[0, 2]] > 0).all()
