"""The parts of the vLLM plugin that need no vLLM: settings, rows, bans. The rest is tested in tests/serving."""

from __future__ import annotations

import gc
import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dola import DoLaConfig
from dola.contrast import contrast, plausible
from dola.errors import ConfigError, ModelError
from dola.integrations.vllm import engines, plugin
from dola.serving.bans import decided_by_mature
from dola.serving.rows import Batch, Request, batch_of
from dola.serving.settings import Served


def _served(**given: Any) -> Served:
    return Served.of(given, num_layers=8, tied=False)


def test_an_engine_resolves_its_layers():
    served = _served(layers="high", capture=[1], relative_top=0.2)
    assert served.config == DoLaConfig((4, 6), relative_top=0.2)
    assert served.captured == (1, 4, 6)
    assert served.default_on
    assert _served(capture="all", default="off").captured == tuple(range(8))


@pytest.mark.parametrize("given", ["high", [1]])
def test_an_engines_settings_are_an_object(given: Any):
    with pytest.raises(ConfigError, match="not an object of settings"):
        Served.of(given, num_layers=8, tied=False)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (None, DoLaConfig((4, 6))),
        ({}, DoLaConfig((4, 6))),
        ({"dola_layers": "off"}, None),
        ({"dola_layers": "on"}, DoLaConfig((4, 6))),
        ({"dola_layers": "low"}, DoLaConfig((0, 2))),
        ({"dola_layers": "2, 6"}, DoLaConfig((2, 6))),
        ({"dola_layers": [6]}, DoLaConfig((6,))),
        ({"dola_relative_top": 0, "dola_final_norm": 0}, DoLaConfig((4, 6), relative_top=0, final_norm=False)),
        ({"dola_divergence": "reference", "kv_transfer_params": {}}, DoLaConfig((4, 6), divergence="reference")),
    ],
)
def test_a_request(extra: Any, expected: Any):
    assert _served(capture="all").of_request(extra) == expected


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"dola_layers": [1]}, "needs layer 1, which this server does not capture; it captures 4, 6"),
        ({"dola_layers": 4}, "neither a bucket"),
        ({"dola_layers": {"a": 1}}, "neither a bucket"),
        ({"dola_layers": "off", "dola_final_norm": True}, "omit one of the two"),
        ({"DoLa_layers": "high"}, "is not an option"),
        ({"dola_final_norm": "no"}, "is not a bool"),
    ],
)
def test_invalid_requests_are_refused(extra: Any, words: str):
    with pytest.raises(ConfigError, match=words):
        _served().of_request(extra)


def test_where_dola_is_off_by_default_a_request_says_which_layers():
    served = _served(default="off")
    assert served.of_request({}) is None
    assert served.of_request({"dola_layers": "on"}) == DoLaConfig((4, 6))
    with pytest.raises(ConfigError, match="off for requests that do not name layers"):
        served.of_request({"dola_relative_top": 0.5})


def _params(**given: Any) -> SimpleNamespace:
    plain = dict.fromkeys(("logprobs", "structured_outputs", "bad_words", "allowed_token_ids", "logit_bias"))
    return SimpleNamespace(**{**plain, "min_tokens": 0, **given})


def test_requests_for_probabilities_are_not_lazy_and_those_with_bans_are_watched():
    config = DoLaConfig((4,))
    assert Request.of(config, _params()) == Request(config, lazy=True, bans=False)
    assert not Request.of(config, _params(logprobs=0)).lazy
    assert not Request.of(config, _params(logprob_token_ids=[1])).lazy
    for ban in ({"bad_words": ["x"]}, {"min_tokens": 2}, {"logit_bias": {3: 1.0}}, {"allowed_token_ids": [1]}):
        assert Request.of(config, _params(**ban)).bans


def test_only_the_first_logits_of_a_step_are_the_batchs():
    batch = Batch({0: Request(DoLaConfig((4,)))})
    assert batch.take() == {}
    batch.announce()
    assert batch.take() == batch.requests
    assert batch.take() == {}


def test_with_drafts_a_request_has_several_rows():
    """Requests 0 and 2 ask for DoLa, with two drafts and none; request 1 has one draft."""
    first, third = Request(DoLaConfig((4,))), Request(DoLaConfig((6,)))
    batch = Batch({0: first, 2: third})
    batch.announce()
    batch.spread([3, 2, 1])
    assert batch.take() == {0: first, 1: first, 2: first, 5: third}
    batch.announce()
    assert batch.take() == {0: first, 2: third}  # a step without drafts


def test_the_line_of_the_log():
    line = _served(default="off").in_force()
    assert line.startswith("DoLa is off for requests without options. Method dola, layers 4, 6; captured 4, 6 of")
    assert "lens none" in line


def test_engines_have_batches_of_their_own():
    one, other = SimpleNamespace(instance_id="one"), SimpleNamespace(instance_id="other")
    batch = batch_of(one)
    assert batch_of(one) is batch
    assert batch_of(other) is not batch
    batch.wired = True
    del batch
    gc.collect()
    assert not batch_of(one).wired


def test_rows_that_lost_their_plausible_set():
    """Row 0 keeps a plausible token, row 1 loses all by a ban, row 2 by a bias of -100, row 3 has none to lose."""
    torch.manual_seed(0)
    mature = torch.randn(4, 9) * 4
    scores = contrast(mature, torch.randn(2, 4, 9) * 4)
    allowed = plausible(mature)
    expected, behind = scores.clone(), scores.clone()
    best = mature[0].argmax()
    if allowed[0].sum() > 1:
        behind[0, best] = expected[0, best] = -math.inf
    behind[1, allowed[1]] = -math.inf
    expected[1] = mature[1].masked_fill(allowed[1], -math.inf)
    bias = {int(token): -100.0 for token in allowed[2].nonzero()[:, 0]} | {int((~allowed[2]).nonzero()[0, 0]): 2.0}
    behind[2, list(bias)] += torch.tensor(list(bias.values()))
    expected[2] = mature[2]
    expected[2, list(bias)] += torch.tensor(list(bias.values()))
    plain = Request(DoLaConfig((4,)))
    found = decided_by_mature(behind, mature, [plain, plain, Request(DoLaConfig((4,)), bias=bias), plain])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("processed", [False, True])
def test_a_bias_that_would_force_a_token_in_plain_decoding_forces_it(processed):
    """Row 0 is forced, row 1 has a bias that plain decoding would not follow, row 2 a forced token that is banned."""
    torch.manual_seed(1)
    mature = torch.randn(3, 9) * 4
    scores = contrast(mature, torch.randn(2, 3, 9) * 4)
    outside = [int((~plausible(row)).nonzero()[0, 0]) for row in mature]
    requests, behind = [], scores.clone()
    for row, value in enumerate([100.0, 0.5, 100.0]):
        requests.append(Request(DoLaConfig((4,)), bias={outside[row]: value}))
        behind[row, outside[row]] += value
    behind[2, outside[2]] = -math.inf
    biased = mature.clone()
    biased[0, outside[0]] += 100.0
    found = decided_by_mature(behind, mature, requests, processed=biased * 1.5 if processed else None)
    assert int(found[0].argmax()) == outside[0]
    assert torch.equal(found[0], biased[0] * (1.5 if processed else 1.0))
    assert torch.equal(found[1:], behind[1:])


def test_without_a_threshold_only_minus_infinity_is_lost():
    scores, mature = torch.tensor([[-2000.0, -3000.0], [-math.inf, -math.inf]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = decided_by_mature(scores, mature, [Request(DoLaConfig((4,), relative_top=0))] * 2)
    assert torch.equal(found, scores)


def _engine(architecture: str = "LlamaForCausalLM", dola: Any = None, **settings: Any) -> Any:
    text = SimpleNamespace(num_hidden_layers=8, tie_word_embeddings=True)
    model = SimpleNamespace(architecture=architecture, runner_type="generate", hf_text_config=text)
    parallel = SimpleNamespace(enable_batch_sharded_sampling=False, pipeline_parallel_size=settings.pop("stages", 1))
    for name in ("runner_type",):
        setattr(model, name, settings.pop(name, getattr(model, name)))
    parallel.enable_batch_sharded_sampling = settings.pop("sharded", False)
    return SimpleNamespace(
        additional_config={} if dola is None else {"dola": dola},
        model_config=model,
        parallel_config=parallel,
        **{"speculative_config": None, "lora_config": None, "compilation_config": SimpleNamespace(mode=None), **settings},
    )


def test_an_engine_without_dola_is_left_alone():
    assert plugin.served_by(_engine("SomethingElse", speculative_config=object())) is None


@pytest.mark.parametrize(
    ("outer", "text", "tied"), [(True, False, True), (False, True, False), (None, True, True), (None, None, False)]
)
def test_the_outermost_config_says_whether_the_head_is_tied(outer: Any, text: Any, tied: bool):
    """InternVL's outer config says yes, its text config no. transformers ties the head, so "low" is that of a tied model."""
    configs = [SimpleNamespace(**({} if value is None else {"tie_word_embeddings": value})) for value in (outer, text)]
    assert plugin._is_tied(SimpleNamespace(hf_config=configs[0], hf_text_config=configs[1])) is tied


def test_an_engine_with_dola():
    """It captures all layers, unless it names some or the stages of a pipeline would have to send them."""
    for settings, stages, captured in (({}, 1, (*range(8),)), ({}, 2, (2,)), ({"capture": [4]}, 1, (2, 4))):
        served = plugin.served_by(_engine(dola={"layers": "low", **settings}, stages=stages))
        assert served is not None
        assert served.captured == captured


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speculative_config": SimpleNamespace(method="eagle")}, "speculative decoding.*this is 'eagle'"),
        ({"speculative_config": SimpleNamespace(method="ngram"), "use_v2_model_runner": True}, "with runner V2"),
        ({"sharded": True}, "batch-sharded sampling"),
        ({"runner_type": "pooling"}, "pooling models"),
        ({"compilation_config": SimpleNamespace(mode=1)}, "stock torch.compile"),
        ({"lora_config": SimpleNamespace(target_modules=["q_proj", "lm_head"])}, "adapters on the head"),
    ],
)
def test_incompatible_engine_settings_are_refused(settings: Any, words: str):
    with pytest.raises(ConfigError, match=words):
        plugin.served_by(_engine(dola={}, **settings))


@pytest.mark.parametrize("targets", [None, ["q_proj", "v_proj"]])
def test_adapters_outside_the_head_are_allowed(targets: Any):
    assert plugin.served_by(_engine(dola={}, lora_config=SimpleNamespace(target_modules=targets))) is not None


def test_an_architecture_of_another_package_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Its class would decode without DoLa."""
    monkeypatch.setattr(plugin, "originals", lambda: {"LlamaForCausalLM": ("module", "class")})
    with pytest.raises(ModelError, match="cannot be used with SomethingElse"):
        plugin.check_architecture("SomethingElse")
    plugin.check_architecture("LlamaForCausalLM")


@pytest.mark.parametrize(
    ("version", "lacks", "starts"), [("0.99.1", True, False), ("0.99.1", False, True), ("0.32.4", True, True)]
)
def test_another_version_starts_if_it_has_what_dola_uses(
    version: str, lacks: bool, starts: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))  # type: ignore[arg-type]
    monkeypatch.setattr(engines, "failures", lambda root: ["vllm.sequence does not exist"] if lacks else [])
    reason, doubt = plugin.why_not(), plugin.untested()
    assert (reason is None) == starts
    assert starts or "this is vLLM 0.99.1, which differs from what dola uses: vllm.sequence does not exist" in (reason or "")
    assert (doubt is None) == (version == "0.32.4")
    assert doubt is None or "DoLa's tests have not run vLLM 0.99.1" in doubt


def test_the_switch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setenv("DOLA_VLLM", "0")
    plugin.register()
    assert "switched off" in caplog.text


@pytest.mark.parametrize(
    "name", ["dloa_layers", "dola_layer", "DOLA_LAYERS", "layers", "relative_top", "dolalayers", "dola-layers"]
)
def test_a_misspelt_option_is_not_ignored(name: str):
    with pytest.raises(ConfigError, match=r"is not an option of DoLa\. Allowed: dola_layers"):
        _served().of_request({name: "off"})
    assert _served().of_request({"session_id": "a", "top_n_sigma": 1.0}) == DoLaConfig((4, 6))  # other plugins' options


def test_settings_under_another_name_are_not_ignored():
    for name in ("DoLa", "dola_layers", "dola.layers"):
        engine = _engine()
        engine.additional_config = {name: {"layers": "low"}}
        with pytest.raises(ConfigError, match="is not a setting"):
            plugin.served_by(engine)
    engine.additional_config = {"dola_version": "0", "other": {}}
    assert plugin.served_by(engine) is None


@pytest.mark.parametrize(
    ("source", "override", "given", "expected"),
    [
        ("auto", {}, {}, (2,)),
        ("auto", {}, {"layers": [5]}, (5,)),
        ("auto", {"dola_layers": [6]}, {}, (6,)),
        ("vllm", {}, {}, (4, 6)),
        ("vllm", {"dola_layers": [6]}, {}, (6,)),
        ("some/folder", {}, {}, (2,)),
    ],
)
def test_layers_of_the_models_generation_config(source: str, override: Any, given: Any, expected: tuple[int, ...]):
    engine = _engine(dola=given)
    engine.model_config.hf_text_config.tie_word_embeddings = False
    engine.model_config.generation_config, engine.model_config.override_generation_config = source, override
    engine.model_config.try_get_generation_config = lambda: {"dola_layers": [2], "temperature": 0.5}
    assert plugin.served_by(engine).config.layers == expected


def test_the_rust_front_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(ConfigError, match="the Rust front end"):
        plugin.served_by(_engine(dola={}))
