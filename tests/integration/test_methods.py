"""A method from another installed package works through every interface."""

from __future__ import annotations

import pytest
import torch
from each_method import Given
from families import FAMILIES, readout, tiny
from toy_method import ToyConfig, installed, toy_judge
from workers import together

import dola
from dola.decoding.candidates import Captured, Read
from dola.decoding.reading import Reading
from dola.decoding.step import Step
from dola.errors import ConfigError
from dola.methods.registry import METHODS, config_of, method_of
from dola.methods.vocabulary import Shard
from dola.model.anatomy import Anatomy
from dola.serving.settings import Served, request_options
from dola.ui.form import offered
from dola.ui.request import Request

INPUTS = {"input_ids": torch.arange(3, 15)[None]}


def judged(model, layers=(3, 4, 5), rate=0.5, family="llama"):
    """The toy's scores at all positions, by its float64 form, from what the model itself returns."""
    with torch.no_grad():
        out = model(**INPUTS, output_hidden_states=True)
    premature = [readout(model, FAMILIES[family], out.hidden_states[j])[0].tolist() for j in layers]
    mature = out.logits[0].tolist()
    rows = [toy_judge(row, [layer[t] for layer in premature], rate) for t, row in enumerate(mature)]
    return torch.tensor(rows, dtype=torch.float64)


class TestPython:
    @pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "opt"])
    def test_attach(self, family):
        model = tiny(family)
        expected = judged(model, family=family)
        with dola.attach(model, ToyConfig()) as attachment, torch.no_grad():
            found = model(**INPUTS).logits[0]
        assert attachment.layers == (3, 4, 5)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)

    def test_generate_and_install(self, llama):
        def greedy(**settings):
            return llama.generate(**INPUTS, max_new_tokens=5, do_sample=False, **settings)

        with dola.attach(llama, ToyConfig(rate=0.9)):
            expected = greedy()
        assert not torch.equal(expected, greedy())
        settings = {"max_new_tokens": 5, "do_sample": False}
        assert torch.equal(dola.generate(llama, **INPUTS, dola_layers=ToyConfig(rate=0.9), **settings), expected)
        dola.install(ToyConfig(rate=0.9))
        try:
            assert torch.equal(greedy(dola_layers="last:3"), expected)
        finally:
            dola.uninstall()

    def test_bans_leave_the_mature_order(self, llama):
        """The toy supports all tokens, so a ban leaves the toy's own next choice."""
        with dola.attach(llama, ToyConfig(rate=0.9)):
            order = llama(**INPUTS).logits[0, -1].argsort(descending=True)
            banned = [[int(token)] for token in order[:3]]
            made = llama.generate(**INPUTS, max_new_tokens=1, do_sample=False, bad_words_ids=banned)
        assert int(made[0, -1]) == int(order[3])

    def test_score(self, llama):
        context, continuation = INPUTS["input_ids"][0, :6].tolist(), INPUTS["input_ids"][0, 6:].tolist()
        from words import word_tokenizer

        configs = {"toy": ToyConfig(), "vanilla": None, "dola": dola.DoLaConfig()}
        found = dola.score(llama, word_tokenizer(), [context], [[continuation]], configs, progress=False)
        rows = judged(llama)[5:11].log_softmax(dim=-1)
        expected = sum(rows[i, token] for i, token in enumerate(continuation))
        assert found.values["toy"][0][0] == pytest.approx(float(expected), abs=5e-3)
        assert found.values["toy"] != found.values["vanilla"]

    def test_score_refuses_what_is_of_dola(self):
        with pytest.raises(ConfigError, match=r"softmax='none' works with DoLa only; the method here is 'toy'"):
            dola.Recipe(ToyConfig(), softmax="none")

    def test_trace(self, llama):
        from words import word_tokenizer

        trace = dola.trace(llama, word_tokenizer(), INPUTS["input_ids"][0].tolist(), ToyConfig())
        best = judged(llama).argmax(dim=-1).tolist()
        assert [token.dola_choice for token in trace.tokens] == best
        assert trace.candidates == (3, 4, 5)
        assert trace.settings == {"method": "toy", "layers": "last:3", "rate": 0.5}
        assert type(trace).from_json(trace.to_json()).settings == trace.settings

    def test_shards(self):
        """Two workers with half of the vocabulary each find what one finds."""
        mature, premature = torch.randn(4, 10).double(), torch.randn(3, 4, 10).double()

        def work(rank, gather):
            mine = slice(5 * rank, 5 * rank + 5)
            candidates = Given(premature[..., mine])
            return method_of(ToyConfig()).scores(mature[:, mine], candidates, Shard(gather))

        parts = together(2, work)
        whole = method_of(ToyConfig()).scores(mature, Given(premature))
        torch.testing.assert_close(torch.cat(parts, dim=-1), whole)


class TestSettings:
    def test_methods_are_found_by_their_entry_points(self, toy):
        assert list(METHODS) == ["dola", "confident", "delta", "sled", "toy"]
        assert METHODS["toy"] is ToyConfig
        assert config_of({"method": "toy", "layers": "2,4", "rate": 1}) == ToyConfig([2, 4], rate=1)
        assert config_of(ToyConfig(rate=2).as_dict()) == ToyConfig(rate=2)
        assert config_of(dola.DoLaConfig("low").as_dict()) == dola.DoLaConfig("low")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"method": "slow"}, r"method='slow' is unknown; allowed are dola, confident, delta, sled, toy"),
            ({"method": 3}, r"method=3 is unknown"),
            ({"method": "toy", "relative_top": 0.1}, r"'relative_top' is not a setting of the method 'toy'; .* layers, rate"),
            ({"rate": 1}, r"'rate' is not a setting of the method 'dola'"),
            ({"method": "toy", "rate": "much"}, r"rate='much' is not a number"),
            ({"method": "toy", "layers": "deep"}, r"layers='deep'"),
        ],
    )
    def test_mistakes(self, toy, settings, message):
        with pytest.raises(ConfigError, match=message):
            config_of(settings)

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ("toy = no_such_module:Config", "cannot be imported"),
            ("toy = json:dumps", "is not a dola.methods.MethodConfig"),
            ("other = toy_method:ToyConfig", "calls itself 'toy'"),
        ],
    )
    def test_a_package_that_adds_something_else(self, tmp_path, monkeypatch, entry, message):
        monkeypatch.syspath_prepend(installed(tmp_path, entry))
        with pytest.raises(ConfigError, match=message):
            config_of({"method": entry.partition(" ")[0]})

    def test_server(self, toy):
        served = Served.of({"method": "toy", "rate": 2, "capture": "all"}, num_layers=6, tied=False)
        assert served.config == ToyConfig((3, 4, 5), rate=2)
        assert served.of_request({}) == served.config
        assert served.of_request({"dola_rate": 3, "dola_layers": "1,2"}) == ToyConfig((1, 2), rate=3)
        assert served.of_request({"dola_method": "dola"}) == dola.DoLaConfig((3, 5))
        assert served.of_request({"dola_layers": "off"}) is None
        with pytest.raises(ConfigError, match="'dola_relative_top' is not an option of the method 'toy'"):
            served.of_request({"dola_relative_top": 0.1})
        with pytest.raises(ConfigError, match="'relative_top' in additional_config"):
            Served.of({"method": "toy", "relative_top": 0.1}, num_layers=6, tied=False)

    def test_a_request_names_another_method_than_the_server(self, toy):
        served = Served.of({"layers": "all", "default": "off"}, num_layers=6, tied=False)
        assert served.of_request({}) is None
        assert served.of_request({"dola_method": "toy", "dola_rate": 1}) == ToyConfig((3, 4, 5), rate=1)
        assert request_options({"dola_method": "toy"}) == {"method": "toy"}  # which asks a server without DoLa for it

    def test_page(self, toy):
        assert Request(prompt="a", method="toy", layers="all", settings={"rate": 2}).config() == ToyConfig("all", rate=2)
        assert [each.name for each in offered(ToyConfig)] == ["rate"]  # which has a widget, though nothing describes it


class TestCandidates:
    """What a method is given."""

    def test_both_kinds_of_candidates_say_the_same(self, llama):
        anatomy, config = Anatomy.of(llama), ToyConfig([2, 4])
        hidden = [torch.randn(3, 32), torch.randn(3, 32)]
        mature = anatomy.readout(torch.randn(3, 32))
        head = [anatomy.readout(state) for state in hidden]
        read, captured = Read(anatomy, config, Reading(torch.stack([mature, *head]))), Captured(anatomy, config, hidden)
        weights = torch.tensor([0.5, -0.25, 0.75])
        for one, other in (
            (read.logits(), captured.logits()),
            (read.logits(1), captured.logits(1)),
            (read.logits(rows=[2]), captured.logits(rows=[2])),
            (read.logits(0, torch.tensor([0, 2])), captured.logits(0, torch.tensor([0, 2]))),
            (read.combined(mature, weights), captured.combined(mature, weights)),
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)

    def test_rows_are_read_in_chunks(self, llama, monkeypatch):
        anatomy = Anatomy.of(llama)
        hidden, mature = [torch.randn(5, 32) for _ in range(3)], torch.randn(5, 401)
        whole = Step(anatomy, ToyConfig()).scores(mature, hidden, lazy=False)
        monkeypatch.setattr("dola.decoding.step.CHUNK_ELEMENTS", {"cpu": 3 * 401 * 2})
        torch.testing.assert_close(Step(anatomy, ToyConfig()).scores(mature, hidden, lazy=False), whole)

    @pytest.mark.parametrize(("config", "parts"), [(dola.ConfidentConfig([2, 3, 4]), 1), (dola.DoLaConfig([2, 3, 4]), 5)])
    def test_a_method_that_reads_layer_by_layer_takes_more_rows_at_a_time(self, llama, monkeypatch, config, parts):
        """Its batch shares each read of the head."""
        anatomy, taken = Anatomy.of(llama), []
        layers = (2, 3, 4, anatomy.num_layers)
        hidden, mature = [torch.randn(5, 32) for _ in range(3)], torch.randn(5, 401)
        whole = Step(anatomy, config, layers=layers).scores(mature, hidden, lazy=False)
        monkeypatch.setattr("dola.decoding.step.CHUNK_ELEMENTS", {"cpu": 5 * 401})
        original = Step._score
        monkeypatch.setattr(Step, "_score", lambda self, rows, *rest: taken.append(len(rows)) or original(self, rows, *rest))
        torch.testing.assert_close(Step(anatomy, config, layers=layers).scores(mature, hidden, lazy=False), whole)
        assert len(taken) == parts
