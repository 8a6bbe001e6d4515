"""Lenses: the fit against its float64 judge, files, refusals, and every in-process door reading through one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from command import tokenizer
from families import FAMILIES, tiny
from reference.dola_float64 import contrast, log_softmax
from reference.lens_float64 import least_squares, linear, tuned

import dola
from dola.errors import ConfigError, LensError
from dola.lens.belongs import maps_of
from dola.lens.sums import Sums
from dola.lens.tuned import read_tuned
from dola.model.anatomy import Anatomy
from dola.plot.html import page_data

TEXTS = [f"The number {number} is written {number} times {number}." for number in range(60)]
IDS = torch.arange(3, 15)[None]
LAYERS = (2, 4)


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def fitted(model):
    return dola.fit_lens(model, tokenizer(), TEXTS, layers=[2, 4, 5], tokens=1500)


@pytest.fixture(scope="module")
def file(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("lens") / "llama.lens.safetensors"
    fitted.save(path)
    return str(path)


def premature(model, lens, layer, ids=IDS):
    """Logits [T, V] of a layer through a lens, by the judge."""
    states = model(ids, output_hidden_states=True).hidden_states[layer][0]
    place, head, norm = lens.layers.index(layer), model.lm_head.weight.double(), model.model.norm
    if lens.kind == "linear":
        return [(head @ linear(lens.weight[place], lens.bias[place], state)).tolist() for state in states]
    mapped = [norm(tuned(lens.weight[place], lens.bias[place], state).float()).double() for state in states]
    return [(head @ state).tolist() for state in mapped]


def judged(model, lens, layers=LAYERS, ids=IDS, **settings):
    """Scores [T, V] by the judge."""
    mature = model(ids).logits[0].double().tolist()
    read = [premature(model, lens, layer, ids) for layer in layers]
    return [contrast(row, [layer[t] for layer in read], **settings) for t, row in enumerate(mature)]


def close(scores, expected, tolerance=2e-3):
    for row, wanted in zip(scores.double().tolist(), expected, strict=True):
        inside = [x for x, value in enumerate(wanted) if value > -1e9]
        assert all(abs(row[x] - wanted[x]) < tolerance for x in inside)
        assert max(range(len(row)), key=row.__getitem__) in inside


def test_sums_solve_least_squares():
    torch.manual_seed(0)
    states = torch.randn(300, 8, dtype=torch.float64) * torch.tensor([1e3, *[1.0] * 7])
    targets = torch.randn(300, 6, dtype=torch.float64) + states[:, :6] * 0.3
    sums = Sums(torch.zeros(9, 9, dtype=torch.float64), torch.zeros(9, 6, dtype=torch.float64))
    for rows in range(0, 300, 70):
        sums.add(states[rows : rows + 70], targets[rows : rows + 70])
    weight, bias, mean = sums.solve()
    expected = least_squares(states, targets)
    assert torch.allclose(weight, expected[0], atol=1e-9)
    assert torch.allclose(bias, expected[1], atol=1e-7)
    assert torch.allclose(mean, states.mean(dim=0))


def test_a_planted_map_is_recovered():
    torch.manual_seed(0)
    weight, bias = torch.randn(8, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    states = torch.randn(400, 8, dtype=torch.float64) + 5
    sums = Sums.empty(8, torch.device("cpu"))
    sums.add(states, states @ weight.T + bias)
    found = sums.solve()
    assert torch.allclose(found[0], weight, atol=1e-3)
    assert torch.allclose(found[1], bias, atol=1e-2)


def test_a_fit_is_the_judges(model, fitted):
    """On the windows that were fitted on, from the model's own hidden states."""
    made = tokenizer()
    states, targets = [], []
    for number, text in enumerate(TEXTS):
        if number % 8 != 1 and sum(map(len, states)) < 1500:
            out = model(torch.tensor([made(text).input_ids]), output_hidden_states=True)
            take = 1500 - sum(map(len, states))
            states.append(out.hidden_states[2][0][:take])
            targets.append(out.hidden_states[-1][0][:take])  # transformers gives the last one normed
    weight, bias = least_squares(torch.cat(states), torch.cat(targets))
    assert fitted.facts["tokens"] == len(torch.cat(states))
    assert torch.allclose(fitted.weight[0].double(), weight, atol=1e-4)
    assert torch.allclose(fitted.bias[0].double(), bias, atol=1e-4)


def test_the_table_says_that_a_lens_reads_better_than_the_norm(fitted):
    table = fitted.facts["table"]
    assert [row["layer"] for row in table] == [2, 4, 5]
    assert all(row["r2"] < 1 and row["kl"] < row["norm_kl"] for row in table[1:])
    assert table[0]["r2"] < table[2]["r2"]


def test_a_file_holds_all_of_a_lens(fitted, file):
    loaded = dola.Lens.load(file)
    assert (loaded.kind, loaded.layers, loaded.facts) == (fitted.kind, fitted.layers, fitted.facts)
    assert torch.equal(loaded.weight, fitted.weight)
    assert torch.equal(loaded.bias, fitted.bias)
    assert loaded.statistics.keys() == fitted.statistics.keys()
    assert loaded.digest


def test_attach_reads_through_a_lens(model, fitted, file):
    with dola.attach(model, dola.DoLaConfig(LAYERS, lens=file, lazy=False)):
        scores = model(IDS).logits[0]
    close(scores[-1:], judged(model, fitted)[-1:])


@pytest.mark.parametrize("layers", [LAYERS, (4,)])
def test_generate_takes_the_judges_tokens(model, fitted, file, layers):
    ids = IDS
    with dola.attach(model, dola.DoLaConfig(layers, lens=file)):
        found = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False)
    for _ in range(4):
        row = judged(model, fitted, layers, ids)[-1]
        ids = torch.cat([ids, torch.tensor([[max(range(len(row)), key=row.__getitem__)]])], dim=1)
    assert found.tolist() == ids.tolist()


def test_maps_are_made_once_and_serve_calls_with_gradients_too(model, file):
    config = dola.DoLaConfig(LAYERS, lens=str(file))
    with torch.inference_mode():
        maps = maps_of(Anatomy.of(model), config)
    assert maps_of(Anatomy.of(model), config) is maps
    assert not maps.weight.is_inference()


def test_a_batch_is_its_rows(model, file):
    batch = torch.cat([IDS, IDS.flip(1)])
    with dola.attach(model, dola.DoLaConfig(LAYERS, lens=file, lazy=False)):
        both = model(batch).logits[:, -1]
        apart = torch.cat([model(row[None]).logits[:, -1] for row in batch])
    assert torch.allclose(both, apart, atol=1e-3)


def test_score_reads_through_a_lens(model, fitted, file):
    config = dola.DoLaConfig(LAYERS, lens=file, relative_top=0.0)
    row, tokens = IDS[0].tolist(), [7, 9]
    ids = torch.tensor([[*row, 7]])
    found = dola.score(model, None, [row], [[tokens]], {"dola": config}).values
    expected = [log_softmax(scores) for scores in judged(model, fitted, ids=ids, relative_top=0.0)]
    assert found["dola"][0][0] == pytest.approx(expected[-2][7] + expected[-1][9], abs=2e-3)


@pytest.mark.parametrize("config", [dola.ConfidentConfig, dola.DeLTaConfig, dola.SLEDConfig])
def test_other_methods_read_through_a_lens(model, file, config):
    with dola.attach(model, config([4, 5], final_norm=True)):
        bare = model(IDS).logits[0, -1]
    with dola.attach(model, config([4, 5], final_norm=True, lens=file)):
        assert not torch.equal(model(IDS).logits[0, -1], bare)


def test_a_trace_reads_through_a_lens(model, fitted, file):
    trace = dola.trace(model, tokenizer(), IDS[0].tolist(), config=dola.DoLaConfig(LAYERS, lens=file))
    row = judged(model, fitted)[-1]
    assert trace.tokens[-1].dola_choice == max(range(len(row)), key=row.__getitem__)
    expected = max(log_softmax(premature(model, fitted, 4)[-1]))
    assert torch.tensor(trace.tokens[-1].top[4][0][1]).log().item() == pytest.approx(expected, abs=2e-3)


def test_a_trace_has_both_readings_and_draws_them(model, file):
    config = dola.DoLaConfig(LAYERS, lens=file)
    trace = dola.trace(model, tokenizer(), IDS[0].tolist(), config=config)
    assert trace.without_lens == dola.trace(model, tokenizer(), IDS[0].tolist(), config=dola.DoLaConfig(LAYERS))
    assert trace.without_lens.tokens[-1].top != trace.tokens[-1].top
    assert dola.LayerTrace.from_json(trace.to_json()) == trace
    assert [each["settings"]["lens"] for each in page_data(trace.readings)["traces"]] == [None, file]
    assert trace.title.endswith("lens llama.lens.safetensors")


def test_traces_of_older_versions_open(model):
    trace = dola.trace(model, tokenizer(), IDS[0].tolist(), LAYERS)
    old = json.loads(trace.to_json())
    del old["without_lens"], old["settings"]["lens"]
    assert dola.LayerTrace.from_json(json.dumps(old)).tokens == trace.tokens


def test_a_tuned_lens_is_imported_and_followed_by_the_norm(model, tmp_path):
    torch.manual_seed(0)
    count, width = len(model.model.layers), model.config.hidden_size
    params = {f"{layer}.weight": torch.randn(width, width) * 0.1 for layer in range(count)}
    params |= {f"{layer}.bias": torch.randn(width) * 0.1 for layer in range(count)}
    torch.save(params, tmp_path / "params.pt")
    about = {"base_model_name_or_path": "tiny", "d_model": width, "num_hidden_layers": count, "lens_type": "linear_tuned_lens"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    lens = read_tuned(tmp_path)
    lens.save(tmp_path / "lens.safetensors")
    with pytest.warns(UserWarning, match="could not be checked"):
        attached = dola.attach(model, dola.DoLaConfig(LAYERS, lens=str(tmp_path / "lens.safetensors"), lazy=False))
    with attached:
        scores = model(IDS).logits[0]
    close(scores[-1:], judged(model, lens)[-1:])


@pytest.mark.parametrize("name", ["gemma2", "opt"])
def test_soft_caps_and_projections_follow_the_map(name):
    model = tiny(name)
    lens = dola.fit_lens(model, tokenizer(), TEXTS, layers=[3], tokens=800)
    anatomy = Anatomy.of(model)
    out = model(IDS, output_hidden_states=True).hidden_states[3]
    mapped = torch.stack([linear(lens.weight[0], lens.bias[0], state) for state in out[0]]).float()
    expected = anatomy.readout(mapped, final_norm=False)
    found = anatomy.premature(out, dola.DoLaConfig([3]), lens.maps([3]))[0]
    assert FAMILIES[name]
    assert torch.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"final_norm": False}, ConfigError, "contradict each other"),
        ({"layers": [3, 4]}, LensError, "has no map for layer 3"),
        ({"lens": "missing.safetensors"}, LensError, "does not exist"),
        ({"lens": 3}, ConfigError, "not text"),
    ],
)
def test_what_a_lens_cannot_do_is_refused(model, file, settings, error, message):
    with pytest.raises(error, match=message):
        dola.attach(model, dola.DoLaConfig(**{"layers": LAYERS, "lens": file, **settings}))


@pytest.mark.parametrize("other", [{"seed": 1}, {"num_hidden_layers": 5}])
def test_a_lens_of_another_model_is_refused_with_both_names(file, other):
    model = tiny(**other)
    model.config.name_or_path = "the-other"
    with pytest.raises(LensError, match=r"belongs to .*the-other"):
        dola.attach(model, dola.DoLaConfig(LAYERS, lens=file))


def test_a_fine_tune_with_other_blocks_is_refused(file):
    model = tiny()
    model.model.layers[3].mlp.up_proj.weight.add_(0.1)
    with pytest.raises(LensError, match=r"other weights: block\.3"):
        dola.attach(model, dola.DoLaConfig(LAYERS, lens=file))


def test_another_dtype_warns_and_works(file):
    with pytest.warns(UserWarning, match="fitted on .* float32"):
        attached = dola.attach(tiny(dtype=torch.bfloat16), dola.DoLaConfig(LAYERS, lens=file))
    attached.remove()


def test_broken_files_are_refused(fitted, file, tmp_path):
    content = Path(file).read_bytes()
    short = tmp_path / "short.safetensors"
    short.write_bytes(content[: len(content) // 2])
    with pytest.raises(LensError, match="cut off"):
        dola.Lens.load(short)
    short.write_bytes(b"not a lens at all")
    with pytest.raises(LensError, match="cut off, or not safetensors"):
        dola.Lens.load(short)
    broken = dola.Lens(fitted.kind, fitted.layers, fitted.weight * torch.nan, fitted.bias)
    broken.save(tmp_path / "nan.safetensors")
    with pytest.raises(LensError, match="NaN"):
        dola.Lens.load(tmp_path / "nan.safetensors")


@pytest.mark.parametrize("left_out", ["config.json", "params.pt"])
def test_a_folder_that_lacks_a_file_is_refused(tmp_path, left_out):
    (tmp_path / "config.json").write_text('{"d_model": 2, "num_hidden_layers": 1}')
    torch.save({"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)}, tmp_path / "params.pt")
    (tmp_path / left_out).unlink()
    with pytest.raises(LensError, match=left_out):
        read_tuned(tmp_path)


def test_code_in_params_does_not_run(tmp_path):
    (tmp_path / "config.json").write_text('{"d_model": 2, "num_hidden_layers": 1}')
    torch.save({"0.weight": print}, tmp_path / "params.pt")
    with pytest.raises(LensError, match="other things than tensors"):
        read_tuned(tmp_path)


def test_without_text_the_model_writes_it(model):
    before = torch.get_rng_state()
    first, second = (dola.fit_lens(model, tokenizer(), layers=[4], tokens=300) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.weight, second.weight)
    assert first.facts["text"] == "the model's own samples"


def test_too_little_text_is_refused(model):
    with pytest.raises(dola.DolaError, match="needs 2 or more"):
        dola.fit_lens(model, tokenizer(), ["short"], layers=[4])


def test_the_same_model_is_silent(model, file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dola.attach(model, dola.DoLaConfig(LAYERS, lens=file)).remove()
