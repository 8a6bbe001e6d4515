"""Confident Decoding, SLED and DeLTa against their float64 judges: batches, shards, compiled calls, bans, draws."""

from __future__ import annotations

import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from each_method import Given
from families import FAMILIES, readout, tiny
from reference.methods_float64 import confident, delta, sled
from words import word_tokenizer
from workers import together

import dola
from dola import native
from dola.decoding.candidates import Captured
from dola.decoding.reading import Reading
from dola.decoding.step import Step
from dola.errors import ConfigError, InputError
from dola.evidence.ways import choice_ways
from dola.methods.confident import entropy
from dola.methods.draws import uniform
from dola.methods.layers import candidate_layers
from dola.methods.registry import config_of, method_of
from dola.methods.vocabulary import WHOLE, Shard
from dola.model.readout import Readout, SoftCap
from dola.serving.settings import Served
from dola.tasks import TASKS

INPUTS = {"input_ids": torch.arange(3, 15)[None]}
CONFIGS = [dola.ConfidentConfig(layers="last:4"), dola.SLEDConfig(), dola.DeLTaConfig(layers="last:4")]
NAMES = ["confident", "sled", "delta"]
each_method = pytest.mark.parametrize("config", CONFIGS, ids=NAMES)


def judged(config, mature, premature, numbers=None):
    """The judge's scores of one row, by token."""
    if isinstance(config, dola.SLEDConfig):
        return sled(mature, premature, config.rate, config.scale, config.steps)
    if isinstance(config, dola.DeLTaConfig):
        return delta(mature, premature, numbers or [*range(len(premature) + 1)], config.beyond, config.relative_top)
    return dict(enumerate(confident(mature, premature)))


def logits_of(model, config, family="llama"):
    """Mature logits [T, V], candidates' [K][T, V] and layer numbers, from what the model itself returns."""
    with torch.no_grad():
        out = model(**INPUTS, output_hidden_states=True)
    numbers = list(range(6)) if config.layers == "all" else [2, 3, 4, 5]
    layers = [readout(model, FAMILIES[family], out.hidden_states[j], final_norm=config.final_norm)[0] for j in numbers]
    return out.logits[0], layers, [*numbers, 6]


def assert_judged(found, config, mature, layers, numbers, tolerance):
    """Scores [T, V] are the judge's, and every other token lies far below."""
    for t, row in enumerate(found.double().tolist()):
        expected = judged(config, mature[t].tolist(), [layer[t].tolist() for layer in layers], numbers)
        assert {token: row[token] for token in expected} == pytest.approx(expected, abs=tolerance)
        others = [score for token, score in enumerate(row) if token not in expected]
        assert max(others, default=-torch.inf) < min(expected.values()) - 999


class TestAgainstTheJudges:
    @pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "opt"])
    @each_method
    def test_on_models(self, config, family):
        model = tiny(family)
        given = logits_of(model, config, family)
        with dola.attach(model, config), torch.no_grad():
            found = model(**INPUTS).logits[0]
        assert_judged(found, config, *given, 5e-3)

    @pytest.mark.parametrize(("rate", "scale"), [(2, 10), (0.5, 5), (1, 20), (2.5, 75)])
    def test_sled_settings(self, llama, rate, scale):
        config = dola.SLEDConfig(rate=rate, scale=scale)
        given = logits_of(llama, config)
        with dola.attach(llama, config), torch.no_grad():
            found = llama(**INPUTS).logits[0]
        assert_judged(found, config, *given, 5e-3)

    def test_sled_where_a_layer_is_certain(self):
        """1 - q loses its digits where q is nearly 1: the closed form must not."""
        torch.manual_seed(0)
        mature, premature = torch.randn(2, 40) * 4, torch.randn(5, 2, 40) * 40
        premature[0, 0, int(mature[0].argmax())] += 200
        premature[1, :, 3] = premature[1].amax() + 14
        config = dola.SLEDConfig(scale=5)
        found = method_of(config).scores(mature, Given(premature))
        assert_judged(found, config, mature, premature, None, 1e-4)

    def test_sled_where_no_layer_favors_any_token(self):
        mature = torch.randn(1, 20)
        found = method_of(dola.SLEDConfig(scale=3)).decide(mature, Given(mature[None]))
        assert_judged(found[0], dola.SLEDConfig(scale=3), mature, mature[None], None, 1e-5)
        assert found[1].tolist() == [[0], [1]]  # the mature layer has all

    def test_sled_with_more_tokens_than_there_are(self):
        mature, premature = torch.randn(2, 6), torch.randn(3, 2, 6)
        config = dola.SLEDConfig(scale=50)
        assert_judged(method_of(config).scores(mature, Given(premature)), config, mature, premature, None, 1e-4)

    @pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
    def test_on_a_real_model(self, smollm2, config):
        model = smollm2[0].float() if isinstance(smollm2, tuple) else smollm2.model.float()
        ids = torch.tensor([[504, 3575, 282, 4649, 314]])
        with torch.no_grad():
            out = model(ids, output_hidden_states=True)
        last = model.config.num_hidden_layers
        numbers = [*range(last)] if config.layers == "all" else [*range(last - 4, last)]
        states = [out.hidden_states[j][0, -1:] for j in numbers]
        with torch.no_grad():
            layers = [model.lm_head(model.model.norm(state) if config.final_norm else state) for state in states]
        with dola.attach(model, config), torch.no_grad():
            found = model(ids).logits[0, -1:]
        assert_judged(found, config, out.logits[0, -1:], layers, [*numbers, last], 5e-3)


class TestRows:
    @each_method
    def test_a_row_does_not_depend_on_its_batch(self, config):
        torch.manual_seed(1)
        mature, premature = torch.randn(6, 50) * 3, torch.randn(4, 6, 50) * 3
        together_, weights = method_of(config).decide(mature, Given(premature))
        for r in range(6):
            one = slice(r, r + 1)
            alone, of_one = method_of(config).decide(mature[one], Given(premature[:, one]))
            torch.testing.assert_close(alone, together_[one])
            torch.testing.assert_close(of_one, weights[:, one])
        torch.testing.assert_close(weights.sum(dim=0), torch.ones(6))

    @each_method
    @pytest.mark.parametrize("sizes", [(25, 25), (10, 40), (3, 3, 44)])
    def test_shards(self, config, sizes):
        """Workers with a part of the vocabulary each find what one finds, padding columns included."""
        torch.manual_seed(2)
        mature, premature = torch.randn(5, 50).double() * 3, torch.randn(4, 5, 50).double() * 3
        pad = torch.nn.functional.pad

        def work(rank, gather):
            mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
            own, theirs = (pad(x[..., mine], (0, 2), value=-torch.inf) for x in (mature, premature))
            vocab = Shard(gather, rank)
            scores, weights = method_of(config).decide(own, Given(theirs), vocab)
            return scores[..., :-2], weights, method_of(config).support(own, vocab)[..., :-2]

        parts = together(len(sizes), work)
        scores, weights = method_of(config).decide(mature, Given(premature))
        torch.testing.assert_close(torch.cat([part[0] for part in parts], dim=-1), scores)
        assert torch.equal(torch.cat([part[2] for part in parts], dim=-1), method_of(config).support(mature))
        for part in parts:
            torch.testing.assert_close(part[1], weights)

    def test_topk_at_and_put_of_shards(self):
        values = torch.randn(2, 12)

        def work(rank, gather):
            vocab, mine = Shard(gather, rank), values[:, 4 * rank : 4 * rank + 4]
            best, ids = vocab.topk(mine, 6)
            return best, ids, vocab.at(mine, ids), vocab.put(mine, ids, best + 100)

        parts = together(3, work)
        best, ids = WHOLE.topk(values, 6)
        for part in parts:
            assert torch.equal(part[0], best)
            assert torch.equal(part[1], ids)
            assert torch.equal(part[2], best)
        assert torch.equal(torch.cat([part[3] for part in parts], dim=-1), WHOLE.put(values, ids, best + 100))

    @each_method
    def test_compiled(self, config):
        model = tiny("llama")
        with dola.attach(model, config), torch.no_grad():
            expected = model(**INPUTS).logits
            torch._dynamo.reset()
            found = torch.compile(model, backend="eager")(**INPUTS).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)

    def test_confident_reads_open_rows_alone(self):
        read = []

        class Noted(Given):
            def logits(self, k=None, rows=None):
                read.append((k, 2 if rows is None else len(rows)))
                return super().logits(k, rows)

        flat, sharp = torch.zeros(10), torch.eye(10)[0] * 9
        premature = torch.stack([torch.stack([flat, flat]), torch.stack([sharp, flat])])
        mature = torch.stack([sharp / 2, sharp])
        found, weights = method_of(dola.ConfidentConfig()).decide(mature, Noted(premature))
        assert read == [(1, 2), (0, 1)]  # the second row stopped at once
        assert torch.equal(found, torch.stack([sharp, sharp]))
        assert weights.argmax(dim=0).tolist() == [1, 2]

    @pytest.mark.parametrize(("rows", "count"), [(1, 10), (2, 7), (3, 4), (16, 4)])
    def test_confident_reads_with_the_mature_row_what_costs_no_time(self, rows, count):
        layers = (*range(20, 30), 30)
        first = method_of(dola.ConfidentConfig()).first_reads(layers, rows)
        assert first.argmax(dim=-1).tolist() == list(range(9, 9 - count, -1))  # from the top down

    def test_layers_that_went_through_the_head_are_not_read_again(self):
        generator = torch.Generator().manual_seed(0)
        states, read = torch.randn(3, 2, 8, generator=generator), torch.randn(3, 2, 20, generator=generator)
        sums = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
        readout = SimpleNamespace(after_head=lambda logits, config: logits, logit_transform=None)
        known = Captured(readout, dola.ConfidentConfig(), list(states), reading=Reading(read, sums=sums))
        assert torch.equal(known.some([1, 0]), read[[2, 1]])
        assert torch.equal(known.some([0], torch.tensor([1])), read[1:2, 1:])
        with pytest.raises(AttributeError, match="premature_product"):  # the head would be needed, and there is none
            known.some([0, 2])

    @pytest.mark.skipif(native.why_not() is not None, reason="no compiled kernel here")
    @pytest.mark.parametrize("soft_cap", [None, 5.0])
    def test_entropies_are_those_of_the_logits_that_are_returned(self, soft_cap):
        """Of layers read along with the mature rows and of others. A soft-cap changes the logits after the kernel read them."""
        head = torch.nn.Linear(32, 50, bias=False)
        readout = Readout(None, None, head, None if soft_cap is None else SoftCap(soft_cap))
        with torch.no_grad():
            states = list(30 * torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0)))
            reading = Reading(*native.head_product(head.weight, torch.stack([states[0], states[1]])), sums=((0.0, 1.0, 0.0),))
            known = Captured(readout, dola.ConfidentConfig(), states, reading=reading)
            for layers in ([1], [0], [0, 2]):
                for rows in (None, torch.tensor([3, 1])):
                    logits, entropies = known.with_entropy(layers, rows)
                    assert (entropies is None) == (soft_cap is not None)
                    expected = torch.distributions.Categorical(logits=logits.double()).entropy()
                    torch.testing.assert_close(entropy(logits, known=entropies).double(), expected, atol=1e-5, rtol=1e-5)
            assert (known.mature_entropy() is None) == (soft_cap is not None)

    def test_a_walk_holds_two_layers_at_a_time(self):
        """However far it goes: memory does not depend on what the layers say."""
        held = []

        class Held(Given):
            def logits(self, k=None, rows=None):
                held.append(weakref.ref(logits := super().logits(k, rows).clone()))
                assert sum(each() is not None for each in held) <= 2
                return logits

        sharper = torch.arange(9.0, 0, -1)[:, None, None] * torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
        weights = method_of(dola.ConfidentConfig()).weights(torch.zeros(20, 30), Held(sharper))
        assert len(held) == 9
        assert weights[0].sum() == 20

    @pytest.mark.parametrize("config", [*CONFIGS[:2], dola.DoLaConfig([0, 1])], ids=[*NAMES[:2], "dola"])
    def test_a_step_is_one_graph(self, config):
        """Where torch.compile does trace the contrast. Of DeLTa, which looks at the head, old versions of torch cannot."""
        head = torch.nn.Linear(8, 20, bias=False)
        step = Step(Readout(None, None, head), config, layers=(0, 1, 2))
        states = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = head(states)
            reading = Reading(logits) if step.method.reads_all else None

            def scores(mature):
                return step.scores(mature, [states[0], states[1]], reading, lazy=False)

            compiled = torch.compile(scores, backend="eager", fullgraph=True)(logits[0])
            torch.testing.assert_close(compiled, scores(logits[0]))

    def test_the_raw_head_is_read_by_torch(self):
        """Its rounding has to be that of the old code."""
        head = torch.nn.Linear(32, 50, bias=False, dtype=torch.bfloat16)
        readout = Readout(None, None, head, SoftCap(5.0))
        with torch.no_grad():
            states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
            raw = Captured(readout, dola.DoLaConfig.reference([0, 1]), list(states))
            mature = readout.readout(states[0])
            read = raw.read(mature, mature.float().logsumexp(-1), torch.arange(3), jsd=False)
            assert torch.equal(read.logits, head(states))


class TestGenerate:
    @pytest.mark.parametrize("config", [dola.ConfidentConfig(), dola.DoLaConfig("high", scores="distribution")], ids=str)
    def test_bans_cost_nothing_where_every_token_can_be_chosen(self, llama, config, monkeypatch):
        method = method_of(config)
        assert not method.rules_out
        monkeypatch.setattr(type(method), "support", None)  # an error if anything asks
        with torch.no_grad(), dola.attach(llama, config):
            llama.generate(**INPUTS, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)

    @each_method
    def test_a_banned_token_is_never_chosen(self, llama, config):
        """Whatever the method can choose is banned: the mature order decides."""
        with torch.no_grad():
            mature = llama(**INPUTS).logits[0, -1]
        support = method_of(config).support(mature[None])[0]
        banned = support.nonzero()[:, 0].tolist() if not support.all() else mature.topk(3).indices.tolist()
        with dola.attach(llama, config):
            made = llama.generate(**INPUTS, max_new_tokens=1, do_sample=False, bad_words_ids=[[token] for token in banned])
        assert int(made[0, -1]) not in banned
        if not support.all():
            assert int(made[0, -1]) == int(mature.masked_fill(support, -torch.inf).argmax())

    @each_method
    @pytest.mark.parametrize(
        "mode",
        [{"num_beams": 3}, {"prompt_lookup_num_tokens": 2}, {"do_sample": True, "top_k": 0}, {"use_cache": False}],
        ids=["beams", "prompt lookup", "sampling", "no cache"],
    )
    def test_modes(self, llama, config, mode):
        """Attached and for one call, the same tokens; without drafts and caches, too."""
        # transformers 5.0 looks prompts up only for models that have a token of end.
        greedy = {**INPUTS, "max_new_tokens": 5, "do_sample": False, "eos_token_id": 400, "pad_token_id": 0}
        call = {**greedy, **mode}
        torch.manual_seed(0)
        with dola.attach(llama, config):
            expected = llama.generate(**call)
        torch.manual_seed(0)
        assert torch.equal(dola.generate(llama, **call, dola_layers=config), expected)
        if "num_beams" not in mode and "top_k" not in mode:
            assert torch.equal(dola.generate(llama, **greedy, dola_layers=config), expected)

    @each_method
    def test_left_padded_batches(self, llama, config):
        ids = torch.arange(3, 15)
        padded = torch.stack([ids, torch.cat([torch.zeros(4, dtype=torch.long), ids[:8]])])
        mask = (padded != 0).long()
        call = {"max_new_tokens": 4, "do_sample": False}
        both = dola.generate(llama, input_ids=padded, attention_mask=mask, dola_layers=config, **call)
        alone = dola.generate(llama, input_ids=ids[None, :8], dola_layers=config, **call)
        assert torch.equal(both[1, 12:], alone[0, 8:])

    def test_by_name(self, llama):
        call = {**INPUTS, "max_new_tokens": 4, "do_sample": False}
        expected = dola.generate(llama, **call, dola_layers=dola.SLEDConfig([2, 4], rate=5))
        assert torch.equal(dola.generate(llama, **call, dola_method="sled", dola_layers=[2, 4], dola_rate=5), expected)
        with pytest.raises(ConfigError, match="'relative_top' is not a setting of the method 'sled'"):
            dola.generate(llama, **call, dola_method="sled", dola_relative_top=0.1)
        with pytest.raises(ConfigError, match="dola_rate was given with dola_layers=SLEDConfig"):
            dola.generate(llama, **call, dola_layers=dola.SLEDConfig(), dola_rate=2)

    def test_lazy_delta_changes_no_token(self, llama):
        config = dola.DeLTaConfig(layers="last:4", relative_top=0.5)
        call = {**INPUTS, "max_new_tokens": 12, "do_sample": False}
        with dola.attach(llama, config) as attachment:
            lazy = llama.generate(**call)
            assert 0 < attachment.rows_saved < attachment.rows
        with dola.attach(llama, dola.DeLTaConfig(layers="last:4", relative_top=0.5, lazy=False)):
            assert torch.equal(llama.generate(**call), lazy)


class TestScoreAndTrace:
    @each_method
    def test_score(self, llama, config):
        ids = INPUTS["input_ids"][0].tolist()
        found = dola.score(llama, word_tokenizer(), [ids[:6]], [[ids[6:]]], {"it": config}, progress=False)
        with dola.attach(llama, config), torch.no_grad():
            log_p = llama(**INPUTS).logits[0, 5:11].log_softmax(dim=-1)
        expected = sum(float(log_p[i, token]) for i, token in enumerate(ids[6:]))
        assert found.values["it"][0][0] == pytest.approx(expected, abs=5e-3)

    @each_method
    def test_trace(self, llama, config):
        trace = dola.trace(llama, word_tokenizer(), INPUTS["input_ids"][0].tolist(), config)
        with dola.attach(llama, config), torch.no_grad():
            best = llama(**INPUTS).logits[0].argmax(dim=-1).tolist()
        assert [token.dola_choice for token in trace.tokens] == best
        assert config.label() in "".join(trace.explain(index) for index in range(len(trace.tokens)))
        assert type(trace).from_json(trace.to_json()).settings == trace.settings

    def test_controls_of_a_method_that_chooses_a_layer(self, llama):
        """The layer below the last, and a random one of the window."""
        task = TASKS["factor-news"]
        ways = {way.name: way.recipe for way in choice_ways(task, dola.ConfidentConfig(layers="last:3")) if way.recipe}
        assert list(ways) == ["vanilla", "confident", "the layer below the last", "random layer"]
        ids = INPUTS["input_ids"][0].tolist()
        found = dola.score(llama, word_tokenizer(), [ids[:6]], [[ids[6:]]], ways, progress=False)
        with torch.no_grad():
            states = llama(**INPUTS, output_hidden_states=True).hidden_states
        below = readout(llama, FAMILIES["llama"], states[5])[0, 5:11].log_softmax(dim=-1)
        expected = sum(float(below[i, token]) for i, token in enumerate(ids[6:]))
        assert found.values["the layer below the last"][0][0] == pytest.approx(expected, abs=5e-3)
        assert found.layers["the layer below the last"] == [{5: 6}]
        assert set(found.layers["random layer"][0]) <= {3, 4, 5}
        assert len(found.layers["random layer"][0]) > 1
        assert [way.name for way in choice_ways(task, dola.SLEDConfig())] == ["vanilla", "sled", "length alone"]

    def test_a_method_that_draws_is_not_scored(self, llama):
        config = dola.ConfidentConfig(layers="last:3", probability=0.5)
        with pytest.raises(ConfigError, match=r"'confident' draws .*no log-likelihoods"):
            dola.score(llama, word_tokenizer(), [[5, 6]], [[[7]]], {"it": config}, progress=False)


class TestDraws:
    def test_numbers_are_uniform_and_of_their_place(self):
        places = torch.arange(20000)
        drawn = uniform(7, places)
        assert torch.equal(uniform(7, places[500:600]), drawn[500:600])
        assert abs(float(drawn.mean()) - 0.5) < 0.01
        assert 0 <= float(drawn.min()) < 0.001
        assert 0.999 < float(drawn.max()) < 1
        assert abs(float(torch.corrcoef(torch.stack([drawn, uniform(8, places)]))[0, 1])) < 0.03

    def test_a_row_is_drawn_by_its_position(self):
        config = dola.ConfidentConfig(probability=0.5, seed=3)
        mature, premature = torch.zeros(40, 8), torch.eye(8)[0].expand(1, 40, 8) * 5
        found = method_of(config).scores(mature, Given(premature, torch.arange(40)))
        walked = found[:, 0] == 5
        assert torch.equal(walked, uniform(3, torch.arange(40)) < 0.5)
        assert torch.equal(
            method_of(config).scores(mature[:4], Given(premature[:, :4], torch.arange(20, 24)))[:, 0] == 5, walked[20:24]
        )

    def test_a_call_draws_by_the_position_alone(self, llama):
        """A padded row of a batch has the tokens that it has alone, with a cache and without."""
        config = dola.ConfidentConfig(layers="last:4", probability=0.5, seed=1)
        ids = torch.arange(3, 15)
        padded = torch.stack([ids, torch.cat([torch.zeros(4, dtype=torch.long), ids[:8]])])
        call = {"max_new_tokens": 6, "do_sample": False, "dola_layers": config}
        both = dola.generate(llama, input_ids=padded, attention_mask=(padded != 0).long(), **call)
        alone = dola.generate(llama, input_ids=ids[None, :8], **call)
        assert torch.equal(both[1, 12:], alone[0, 8:])
        assert torch.equal(dola.generate(llama, input_ids=ids[None, :8], use_cache=False, **call), alone)
        with dola.attach(llama, config), torch.no_grad():
            drawn = llama(ids[None]).logits[0]
        with dola.attach(llama, dola.ConfidentConfig(layers="last:4")), torch.no_grad():
            walked = llama(ids[None]).logits[0]
        with torch.no_grad():
            plain = llama(ids[None]).logits[0]
        acts = uniform(1, torch.arange(12)) < 0.5
        torch.testing.assert_close(drawn, torch.where(acts[:, None], walked, plain))

    def test_a_trace_draws_as_decoding_does(self, llama):
        config = dola.ConfidentConfig(layers="last:4", probability=0.5, seed=1)
        trace = dola.trace(llama, word_tokenizer(), list(range(3, 15)), config)
        with dola.attach(llama, config), torch.no_grad():
            best = llama(**INPUTS).logits[0].argmax(dim=-1).tolist()
        assert [token.dola_choice for token in trace.tokens] == best

    def test_probability_0_is_plain_decoding(self, llama):
        with torch.no_grad():
            plain = llama(**INPUTS).logits
        with dola.attach(llama, dola.ConfidentConfig(layers="last:3", probability=0)), torch.no_grad():
            assert torch.equal(llama(**INPUTS).logits, plain)

    def test_without_positions_it_is_refused(self):
        with pytest.raises(InputError, match="positions are not known"):
            method_of(dola.ConfidentConfig(probability=0.5)).scores(torch.zeros(1, 4), Given(torch.zeros(1, 1, 4)))


def test_a_window_deeper_than_the_model_warns_once(caplog):
    for _ in range(2):
        assert candidate_layers("last:77", 5, tied=False) == (0, 1, 2, 3, 4)
    assert [record.message for record in caplog.records if record.name == "dola"] == [
        'layers="last:77": the model has 5 layers below the last one, and all of them are taken.'
    ]


class TestServed:
    @each_method
    def test_an_engine_and_a_request_take_it(self, config):
        settings = {name: value for name, value in config.as_dict().items() if name not in ("lazy", "lens")}
        served = Served.of({**settings, "capture": "all"}, num_layers=6, tied=False)
        assert type(served.config) is type(config)
        assert served.config.layers == ((0, 1, 2, 3, 4, 5) if config.layers == "all" else (2, 3, 4, 5))
        assert served.of_request({"dola_method": config.method, "dola_layers": "4,5"}).layers == (4, 5)

    def test_draws_are_refused(self):
        with pytest.raises(ConfigError, match="an engine does not report the positions"):
            Served.of({"method": "confident", "probability": 0.5}, num_layers=6, tied=False)
        served = Served.of({"method": "confident"}, num_layers=6, tied=False)
        with pytest.raises(ConfigError, match="an engine does not report the positions"):
            served.of_request({"dola_probability": 0.5})


class TestSettings:
    def test_settings_need_no_torch(self):
        code = (
            "import sys\n"
            "from dola.methods.registry import config_of\n"
            "for name in ('confident', 'sled', 'delta'): config_of({'method': name})\n"
            "print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False"]

    @pytest.mark.parametrize("config", [*CONFIGS, dola.DoLaConfig()])
    def test_settings_by_name(self, config):
        assert config_of(config.as_dict()) == config
        assert config.summary

    def test_presets(self):
        assert dola.SLEDConfig.preset("truthfulqa") == dola.SLEDConfig(rate=2.5, scale=75)
        assert config_of({"method": "sled", "preset": "strategyqa", "scale": 7}) == dola.SLEDConfig(rate=1.75, scale=7)
        with pytest.raises(ConfigError, match=r"preset='arc' is unknown; allowed are factor, gsm8k, strategyqa, truthfulqa"):
            dola.SLEDConfig.preset("arc")
        with pytest.raises(ConfigError, match="'delta' has none"):
            config_of({"method": "delta", "preset": "factor"})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"method": "sled", "scale": 0}, r"scale=0 is out of range"),
            ({"method": "sled", "scale": 2.5}, r"scale=2.5 is not an integer"),
            ({"method": "sled", "rate": "fast"}, r"rate='fast' is not a number"),
            ({"method": "sled", "relative_top": 0.1}, r"'relative_top' is not a setting of the method 'sled'"),
            ({"method": "confident", "probability": 1.5}, r"probability=1.5 is out of range"),
            ({"method": "confident", "layers": "low"}, r"layers='low' does not fit the method 'confident'"),
            ({"method": "confident", "divergence": "jsd"}, r"'divergence' is not a setting of the method 'confident'"),
            ({"method": "delta", "beyond": "far"}, r"beyond='far' is not a number"),
            ({"method": "delta", "relative_top": 2}, r"relative_top=2 is out of range"),
        ],
    )
    def test_mistakes(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            config_of(settings)
