"""attach: what a forward of an attached model returns, in which threads and calls, and what it refuses."""

import copy
import importlib
import pickle
import threading

import pytest
import torch
from families import FAMILIES, readout, tiny
from toy_method import Toy, ToyConfig
from transformers import modeling_utils
from transformers.modeling_outputs import CausalLMOutputWithPast

import dola
from dola import native
from dola.contrast import contrast, plausible
from dola.decoding.attach import select_positions
from dola.decoding.step import CHUNK_ELEMENTS
from dola.errors import AttachError, CaptureError, ConfigError, DolaError, InputError, LayersError, ReadoutError

attach_module = importlib.import_module("dola.decoding.attach")  # `dola.decoding.attach` itself is the function


def scores_of(model, ids, config="high", **kwargs):
    with dola.attach(model, config):
        return model(ids, **kwargs).logits


@pytest.mark.parametrize(
    "keep",
    [0, 1, 3, torch.tensor([0, 2, 5]), torch.tensor([6]), torch.tensor([[1, 4]]), slice(1, 3)],
    ids=["all", "1", "3", "index tensor", "last index", "per row", "slice"],
)
def test_logits_to_keep(llama, ids, keep):
    if isinstance(keep, torch.Tensor) and keep.dim() == 2 and not hasattr(modeling_utils, "slice_logits_to_keep"):
        pytest.skip("this transformers has no per-row logits_to_keep")
    whole = scores_of(llama, ids)
    torch.testing.assert_close(scores_of(llama, ids, logits_to_keep=keep), select_positions(whole, keep))


@pytest.mark.skipif(not hasattr(modeling_utils, "slice_logits_to_keep"), reason="this transformers has no such logits_to_keep")
def test_logits_to_keep_by_mask(llama, ids):
    keep = torch.tensor([[True, False, True, False, False, False, True]])
    torch.testing.assert_close(scores_of(llama, ids, logits_to_keep=keep), scores_of(llama, ids)[keep])


def test_return_dict_false(llama, ids):
    with dola.attach(llama, "high"):
        output = llama(ids, return_dict=False)
        assert isinstance(output, tuple)
        assert torch.equal(output[0], llama(ids).logits)


def test_logits_do_not_depend_on_how_many_positions_are_returned(llama, ids, monkeypatch):
    whole = scores_of(llama, ids)
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 1)  # one row at a time
    torch.testing.assert_close(scores_of(llama, ids), whole)


def test_the_readout_is_made_in_bounded_chunks(llama, monkeypatch):
    sizes = []
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 3 * 401 * 5)
    monkeypatch.setattr(native, "suits", lambda head: False)  # so that each product is one call of `read_head`
    original = dola.Anatomy.read_head

    def read_head(self, inputs):
        sizes.append(inputs.shape[:-1].numel() * 401)
        return original(self, inputs)

    monkeypatch.setattr(dola.Anatomy, "read_head", read_head)
    scores_of(llama, torch.randint(3, 400, (2, 40)))
    assert len(sizes) == 1 + 12  # the self-check, then 80 rows, 7 at a time
    assert max(sizes) <= 3 * 401 * 5


def test_only_the_needed_positions_are_kept(llama):
    """The captures are copies: a view of one position would keep the states of the whole prompt alive."""
    kept = []
    original = attach_module.Attachment._contrast

    def spy(self, call, logits):
        kept.extend(call.hidden.values())
        return original(self, call, logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attach_module.Attachment, "_contrast", spy)
        scores_of(llama, torch.randint(3, 400, (2, 40)), logits_to_keep=1)
    assert len(kept) == 2
    assert all(hidden.untyped_storage().nbytes() == 2 * 32 * 4 for hidden in kept)


def test_hidden_states_returned_to_the_user_are_the_models_own(llama, ids):
    plain = llama(ids, output_hidden_states=True).hidden_states
    with dola.attach(llama, "high"):
        attached = llama(ids, output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(plain, attached, strict=True))


def test_config_object_bucket_and_indices_give_the_same_scores(llama, ids):
    by_bucket = scores_of(llama, ids, "high")
    assert torch.equal(by_bucket, scores_of(llama, ids, dola.DoLaConfig("high")))
    assert torch.equal(by_bucket, scores_of(llama, ids, [3, 5]))
    assert torch.equal(by_bucket, scores_of(llama, ids, (3, 5)))


def test_an_attached_model_shows_its_settings(llama):
    with dola.attach(llama, [2, 4]) as attached:
        assert llama.dola is attached
        assert attached.layers == (2, 4)
        assert repr(attached) == (
            "<dola on LlamaForCausalLM: layers 2, 4 of 6, DoLaConfig(layers=(2, 4), relative_top=0.1, divergence='jsd', "
            "strength=1.0, scores='contrast', final_norm=True, lazy=True, lens=None)>"
        )


def test_remove_twice_and_remove_by_the_model(llama, ids):
    before = llama(ids).logits
    attached = dola.attach(llama)
    llama.dola.remove()
    attached.remove()
    assert torch.equal(llama(ids).logits, before)


def test_an_exception_inside_with_still_removes(llama, ids):
    before = llama(ids).logits
    with pytest.raises(KeyError), dola.attach(llama):
        raise KeyError
    assert torch.equal(llama(ids).logits, before)


def test_a_failed_forward_leaves_no_trace(llama, ids):
    with dola.attach(llama):
        expected = llama(ids).logits
        with pytest.raises(IndexError):
            llama(torch.tensor([[10_000]]))
        assert llama.dola._state.call is None
        assert torch.equal(llama(ids).logits, expected)


def test_attach_twice_is_refused(llama):
    with dola.attach(llama, "low"), pytest.raises(AttachError, match=r"already: <dola on LlamaForCausalLM: layers 0, 2 of 6"):
        dola.attach(llama, "high")


def test_a_refused_attach_changes_nothing(llama, ids):
    before, attributes = llama(ids).logits, set(llama.__dict__)
    with pytest.raises(LayersError):
        dola.attach(llama, [99])
    assert set(llama.__dict__) == attributes
    assert torch.equal(llama(ids).logits, before)


def test_labels_are_refused(llama, ids):
    with dola.attach(llama), pytest.raises(InputError, match=r"labels= was given"):
        llama(ids, labels=ids)


def test_positional_labels_are_refused(llama, ids):
    with dola.attach(llama), pytest.raises(InputError, match=r"labels= was given"):
        llama(ids, None, None, None, None, ids)


def test_training_mode_is_refused(ids):
    model = tiny("llama")
    with dola.attach(model):
        model.train()
        with pytest.raises(InputError, match=r"training mode(.|\n)*model\.eval\(\)"):
            model(ids)


def test_no_tokens_are_refused(llama):
    empty = torch.zeros((1, 0), dtype=torch.long)
    with dola.attach(llama):
        with pytest.raises(InputError, match=r"no tokens \(input_ids of shape \[1, 0\]\)"):
            llama(empty)
        with pytest.raises(InputError, match=r"no tokens \(input_ids of shape \[1, 0\]\)"):
            llama.generate(empty, max_new_tokens=2)
        for call in (llama, llama.generate):
            with pytest.raises(InputError, match=r"no tokens \(inputs_embeds of shape \[1, 0, 32\]\)"):
                call(inputs_embeds=torch.zeros(1, 0, 32))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_weights_are_refused(ids, value):
    model = tiny("llama")
    model.model.norm.weight[0] = value
    with dola.attach(model), pytest.raises(InputError, match=r"NaN, infinite or all -inf at position \[0, 0\]"):
        model(ids)


def test_logits_that_are_all_minus_inf_are_refused(llama, ids):
    anatomy = dola.Anatomy.of(llama)
    handle = llama.lm_head.register_forward_hook(lambda m, a, o: torch.full_like(o, -torch.inf))
    try:
        with dola.attach(llama, anatomy=anatomy), pytest.raises(InputError, match="all -inf"):
            llama(ids)
    finally:
        handle.remove()


def test_a_broken_candidate_layer_is_distinguished_from_a_broken_model(llama, ids):
    """If a layer's states overflow, the error does not blame the last layer."""
    with dola.attach(llama, [3]) as attached:
        llama(ids)
        capture = attached._keep_hidden
        attached._keep_hidden = lambda layer, hidden: capture(layer, hidden * torch.nan)
        with pytest.raises(InputError, match="those of a candidate layer are not"):
            llama(ids)


def test_padding_without_a_distribution_raises_no_error(llama):
    padded, mask = torch.tensor([[0, 5, 17]]), torch.tensor([[0, 1, 1]])
    handle = llama.model.register_forward_hook(
        lambda m, a, o: o.last_hidden_state.__setitem__((slice(None), 0), torch.nan) or o
    )
    try:
        with dola.attach(llama):
            scores = llama(padded, attention_mask=mask).logits
            assert scores[:, 1:].isfinite().all()
            with pytest.raises(InputError, match=r"position \[0, 0\]"):
                llama(padded)
    finally:
        handle.remove()


def test_a_capture_that_did_not_run_is_an_error(llama, ids):
    """Early-exit modes cut the list of blocks."""
    blocks = llama.model.layers
    with dola.attach(llama, [5]):
        llama(ids)
        llama.model.layers = blocks[:4]
        try:
            with pytest.raises(CaptureError, match=r"Layer 5 did not run"):
                llama(ids)
        finally:
            llama.model.layers = blocks


@pytest.mark.parametrize("warm", [False, True], ids=["first forward", "later"])
def test_a_forward_that_stops_early_is_an_error_even_if_all_candidates_ran(llama, ids, warm):
    blocks = llama.model.layers
    with dola.attach(llama, "low"):
        if warm:
            llama(ids)
        llama.model.layers = blocks[:4]
        try:
            with pytest.raises(CaptureError, match="The last block of LlamaForCausalLM did not run"):
                llama(ids)
        finally:
            llama.model.layers = blocks


def test_a_call_that_bypasses_the_hooks_is_an_error(llama, ids):
    with dola.attach(llama, [3]), pytest.raises(CaptureError, match=r"call model\(\.\.\.\), not model\.forward"):
        llama.forward(ids)


def test_the_first_forward_detects_a_wrong_anatomy(llama, ids):
    found = dola.Anatomy.of(llama)
    wrong = dola.Anatomy(llama, found.blocks, None, None, found.head)
    with dola.attach(llama, anatomy=wrong), pytest.raises(ReadoutError, match=r"relative error .*final norm: none"):
        llama(ids)


def test_padding_cannot_pass_the_check_of_a_wrong_anatomy(llama, ids, monkeypatch):
    """The check of the readout waits for a row that can show a difference."""
    found, plain = dola.Anatomy.of(llama), llama.lm_head.forward
    wrong = dola.Anatomy(llama, found.blocks, None, None, found.head)
    mask = torch.tensor([[1, 1, 0]])
    with dola.attach(llama, anatomy=wrong):
        monkeypatch.setattr(llama.lm_head, "forward", lambda rows: plain(rows).index_fill(1, torch.tensor([2]), torch.nan))
        llama(ids[:, :3], attention_mask=mask)
        monkeypatch.undo()
        with pytest.raises(ReadoutError):
            llama(ids)


def test_an_anatomy_given_by_hand_is_used(llama, ids):
    found = dola.Anatomy.of(llama)
    by_hand = dola.Anatomy(llama, found.blocks, lambda h: llama.model.norm(h), None, lambda h: llama.lm_head(h))
    with dola.attach(llama, anatomy=by_hand):
        scores = llama(ids).logits
    torch.testing.assert_close(scores, scores_of(llama, ids))  # a head that is no module is read apart


def test_captures_belong_to_the_thread_that_made_them(llama):
    """Threads on one attached model do not see each other's forwards."""
    prompts = [torch.randint(3, 400, (1, n)) for n in (4, 9, 17, 30)]
    with dola.attach(llama, "high"):
        expected = [llama.generate(p, max_new_tokens=10, do_sample=False) for p in prompts]
        results = [None] * len(prompts)

        def work(i):
            for _ in range(3):
                results[i] = llama.generate(prompts[i], max_new_tokens=10, do_sample=False)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(a, b) for a, b in zip(expected, results, strict=True))


@pytest.mark.parametrize("copy_it", [copy.deepcopy, pickle.dumps], ids=["deepcopy", "pickle"])
def test_an_attached_model_is_not_copied_in_silence(llama, copy_it):
    with dola.attach(llama), pytest.raises(AttachError, match=r"cannot be copied or pickled(.|\n)*attach to the copy"):
        copy_it(llama)


def test_an_attached_model_is_saved_as_it_is(llama, tmp_path):
    with dola.attach(llama):
        llama.save_pretrained(tmp_path)
    again = type(llama).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(llama.parameters(), again.parameters(), strict=True))


def test_direct_use_of_the_pure_functions_gives_the_same(llama, ids):
    """The hooks add nothing to the method: capture, readout, contrast."""
    hidden = llama(ids, output_hidden_states=True)
    premature = torch.stack([readout(llama, FAMILIES["llama"], hidden.hidden_states[j]) for j in (3, 5)])
    torch.testing.assert_close(scores_of(llama, ids), contrast(hidden.logits, premature), atol=1e-4, rtol=1e-4)
    assert plausible(hidden.logits).any()


def test_errors_can_be_pickled_between_processes():
    error = pickle.loads(pickle.dumps(InputError("what", hint="do")))
    assert (type(error), error.message, error.hint, str(error)) == (InputError, "what", "do", "what\nHint: do")
    assert isinstance(error, DolaError)
    assert isinstance(error, ValueError)
    assert copy.copy(error).hint == "do"


def with_a_forward_of_its_own(forward):
    """A model whose class has another forward, and the positions at which it runs its head for something else."""
    model = tiny("llama")
    model.__class__ = type("OwnForward", (type(model),), {"forward": forward})
    return model


def aside_and_logits(self, input_ids=None, **kwargs):
    """Runs the head again, after its logits."""
    output = super(type(self), self).forward(input_ids=input_ids, **kwargs)
    output["aside"] = self.lm_head(self.get_input_embeddings()(input_ids))
    return output


def aside_before_logits(self, input_ids=None, **kwargs):
    """Reads an early layer first, as models do that draft for themselves."""
    states = self.model(input_ids=input_ids, output_hidden_states=True)
    aside = self.lm_head(self.model.norm(states.hidden_states[1]))
    output = CausalLMOutputWithPast(logits=self.lm_head(states.last_hidden_state))
    output["aside"] = aside
    return output


def aside_before_blocks(self, input_ids=None, **kwargs):
    """Runs the head before its blocks."""
    aside = self.lm_head(self.get_input_embeddings()(input_ids))
    output = super(type(self), self).forward(input_ids=input_ids, **kwargs)
    output["aside"] = aside
    return output


@pytest.mark.parametrize("together", [True, False], ids=["read together", "read apart"])
@pytest.mark.parametrize("forward", [aside_and_logits, aside_before_logits, aside_before_blocks])
def test_a_model_that_runs_its_head_for_other_things_too(llama, ids, monkeypatch, forward, together):
    monkeypatch.setattr("dola.decoding.step.Step._plan", lambda *args: together)
    model = with_a_forward_of_its_own(forward)
    plain, expected = model(ids)["aside"], scores_of(llama, ids)
    with dola.attach(model, "high"):
        for _ in range(2):
            output = model(ids)
            torch.testing.assert_close(output["aside"], plain)
            torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda scores: scores[0], r"\[401\] torch.float32"),
        (lambda scores: scores[:, :-1], r"\[7, 400\] torch.float32"),
        (lambda scores: scores.bfloat16(), r"\[7, 401\] torch.bfloat16"),
        (lambda scores: None, "NoneType"),
    ],
)
def test_a_method_that_returns_something_else_is_named(llama, ids, monkeypatch, wrong, found):
    right = Toy.scores
    monkeypatch.setattr(Toy, "scores", lambda self, *args, **kwargs: wrong(right(self, *args, **kwargs)))
    with (
        dola.attach(llama, ToyConfig()),
        pytest.raises(ConfigError, match=rf"method 'toy' returned {found} as scores; expected \[7, 401\]"),
    ):
        llama(ids)


def test_scores_that_are_not_finite_name_the_method(llama, ids, monkeypatch):
    monkeypatch.setattr(Toy, "scores", lambda self, mature, *args, **kwargs: mature * torch.nan)
    with dola.attach(llama, ToyConfig()), pytest.raises(InputError, match="or the method 'toy' made its scores so"):
        llama(ids)
