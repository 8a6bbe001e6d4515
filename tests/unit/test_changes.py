"""Attaching and removing are all or nothing: a failure leaves the model unchanged. A deleted model is freed."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from families import tiny
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor

import dola
from dola.decoding import call as generation
from dola.decoding import changes
from dola.decoding.changes import Changes
from dola.errors import AttachError, DolaError

FAST = {"max_new_tokens": 3, "do_sample": False}


class InjectedError(Exception):
    pass


def state_of(model):
    """Every attribute of every module, by identity, and every hook."""
    state = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            state[path, name] = [(key, id(item)) for key, item in value.items()] if isinstance(value, dict) else id(value)
    return state


def attach(model, ids):
    dola.attach(model)


def call(model, ids):
    dola.generate(model, ids, **FAST)


def _failing(original, n, error, *, after):
    """`original`, whose n-th call raises, before or after it has done its work."""
    calls = iter(range(1000))

    def fails(*args, **kwargs):
        hit = next(calls) == n
        if hit and not after:
            raise error
        result = original(*args, **kwargs)
        if hit:
            raise error
        return result

    return fails


STEPS = [
    *((nn.Module, "register_forward_pre_hook", n) for n in range(4)),
    *((nn.Module, "register_forward_hook", n) for n in range(3)),
    *((Changes, "put", n) for n in range(7)),
    *((Changes, "enter", n) for n in range(1)),
]
"""What attaching to the tiny model does: its calls, counted. `test_every_step_is_in_the_list` holds the counts."""


@pytest.mark.parametrize("error", [InjectedError("x"), KeyboardInterrupt()], ids=["exception", "Ctrl-C"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name", "n"), STEPS, ids=lambda value: str(getattr(value, "__name__", value)))
def test_attach_that_fails_at_any_step_changes_nothing(llama, ids, monkeypatch, owner, name, n, after, error):
    llama.generate = lambda *args, **kwargs: "somebody else's"
    before, logits = state_of(llama), llama(ids).logits
    try:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, _failing(getattr(owner, name), n, error, after=after))
            with pytest.raises(type(error)):
                dola.attach(llama)
        assert state_of(llama) == before
        assert torch.equal(llama(ids).logits, logits)
        with dola.attach(llama):
            assert not torch.equal(llama(ids).logits, logits)
        assert state_of(llama) == before
    finally:
        del llama.generate


def test_every_step_is_in_the_list(llama, monkeypatch):
    counts = {}

    def counting(original, name):
        def counted(*args, **kwargs):
            counts[name] = counts.get(name, 0) + 1
            return original(*args, **kwargs)

        return counted

    for owner, name in {(owner, name) for owner, name, _ in STEPS}:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), name))
    with dola.attach(llama):
        found = dict(counts)
    assert found == {name: sum(step[1] == name for step in STEPS) for name in counts}


@pytest.mark.parametrize("n", range(3))
@pytest.mark.parametrize("name", ["register_forward_pre_hook", "register_forward_hook"])
def test_a_call_that_fails_at_any_step_changes_nothing(llama, ids, monkeypatch, name, n):
    before = state_of(llama)
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, name, _failing(getattr(nn.Module, name), n, InjectedError("x"), after=True))
        with pytest.raises(InjectedError):
            call(llama, ids)
    assert state_of(llama) == before


@pytest.mark.parametrize("way", [attach, call])
def test_an_interruption_at_any_line_that_changes_the_model_is_undone(llama, ids, way):
    before, n = state_of(llama), 0
    while _interrupted_at(n, lambda: way(llama, ids), {"before", "after", "put", "enter", "_put_taps"}):
        assert state_of(llama) == before, n
        n += 1
    if way is attach:
        llama.dola.remove()
    assert n > 30
    assert state_of(llama) == before


def test_an_interrupted_remove_can_be_finished(llama):
    before, n = state_of(llama), 0
    attached = dola.attach(llama)
    while _interrupted_at(n, attached.remove, {"undo", "_unhook", "_put_back"}):
        attached.remove()
        assert state_of(llama) == before, n
        attached = dola.attach(llama)
        n += 1
    assert n > 30
    assert state_of(llama) == before


def _interrupted_at(n, work, functions):
    """Whether `work` was interrupted, as by Ctrl-C: at the n-th line of these functions, if it runs so many."""
    lines = iter(range(10_000))

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in (changes.__file__, generation.__file__) or frame.f_code.co_name not in functions:
            return None
        if event == "line" and next(lines) == n:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    former = sys.gettrace()
    try:
        sys.settrace(trace)
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(former)
    return False


def test_what_fails_in_the_call_itself_leaves_nothing(llama, ids):
    before = state_of(llama)
    for settings in ({"assistant_early_exit": 2}, {"max_new_tokens": -5}, {"no_such_argument": 1}, {"dola_layers": [99]}):
        with pytest.raises(ValueError):  # noqa: PT011  whatever says it
            dola.generate(llama, ids, **{**FAST, **settings})
        assert state_of(llama) == before


@pytest.mark.parametrize("name", ["_once", "_generate_with_dola_layers", "_mode_without_dola"])
def test_install_that_fails_half_way_installs_nothing(monkeypatch, name):
    methods = (GenerationMixin.generate, GenerationConfig.get_generation_mode)
    module = sys.modules["dola.decoding.generate"]
    monkeypatch.setattr(module, name, _failing(getattr(module, name), 0, InjectedError("x"), after=True))
    with pytest.raises(InjectedError):
        dola.install()
    assert (GenerationMixin.generate, GenerationConfig.get_generation_mode) == methods
    dola.uninstall()
    assert (GenerationMixin.generate, GenerationConfig.get_generation_mode) == methods


def test_a_custom_generate_method_is_used(llama, ids):
    """A class from outside transformers has no processors to watch, but its loop gets the contrast."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config = llama.model, llama.config
            self.lm_head = llama.lm_head

        def forward(self, input_ids):
            return (self.lm_head(self.inner(input_ids).last_hidden_state), None)

        def generate(self, input_ids, max_new_tokens):
            for _ in range(max_new_tokens):
                input_ids = torch.cat([input_ids, self(input_ids)[0][:, -1:].argmax(-1)], dim=1)
            return input_ids

    model = Own().eval()
    parts = dola.Anatomy(
        lm=model, blocks=tuple(llama.model.layers), final_norm=llama.model.norm, projection=None, head=llama.lm_head
    )
    before = state_of(model)
    with dola.attach(model, anatomy=parts):
        tokens = model.generate(ids, 4)
    assert torch.equal(tokens, dola.generate(llama, ids, max_new_tokens=4, do_sample=False))
    assert state_of(model) == before


# --- models that are dropped


def _generates(model, ids):
    dola.attach(model)
    model.generate(ids, bad_words_ids=[[5]], **FAST)


def _fails(model, ids):
    dola.attach(model)
    for wrong in (lambda: model(ids, labels=ids), lambda: model.generate(ids[:, :0]), lambda: model.model(ids)):
        with pytest.raises(DolaError):
            wrong()


def _is_copied(model, ids):
    dola.attach(model)
    for copies in (copy.deepcopy, pickle.dumps):
        with pytest.raises(DolaError):
            copies(model)


def _has_adapters(model, ids):
    peft = pytest.importorskip("peft")
    dola.attach(model)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).eval().generate(input_ids=ids, **FAST)


def _is_compiled(model, ids):
    compiled = torch.compile(model, backend="eager")
    dola.attach(compiled)
    compiled.generate(ids, disable_compile=True, **FAST)


def _is_wrapped_by_others(model, ids):
    before = model.generate
    model.generate = lambda *args, **kwargs: before(*args, **kwargs)
    dola.attach(model)
    attached = model.generate
    model.generate = lambda *args, **kwargs: attached(*args, **kwargs)
    model.generate(ids, **FAST)


def _runs_in_threads(model, ids):
    dola.attach(model)
    threads = [threading.Thread(target=lambda: model.generate(ids, **FAST)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _is_held_by_a_generator(model, ids):
    def inside():
        with dola.attach(model):
            yield

    model.generator = inside()
    next(model.generator)


def _refuses_gradients(model, ids):
    model.lm_head.weight.requires_grad_(True)
    dola.attach(model)
    with pytest.raises(DolaError):
        model(ids).logits.sum().backward()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # of PEFT with new transformers
@pytest.mark.parametrize(
    "use",
    [
        attach,
        call,
        _generates,
        _fails,
        _is_copied,
        _has_adapters,
        _is_compiled,
        _is_wrapped_by_others,
        _runs_in_threads,
        _is_held_by_a_generator,
        _refuses_gradients,
    ],
)
def test_a_model_deleted_while_attached_is_freed_silently(ids, capfd, use):
    model = tiny("llama")
    gone = [weakref.ref(model), weakref.ref(model.lm_head), weakref.ref(model.model.layers[3])]
    use(model, ids)
    del model
    torch._dynamo.reset()
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3
    assert "Exception ignored" not in capfd.readouterr().err


SCRIPT = """
import contextlib, gc, sys, threading
import dola
from families import tiny

ids = __import__("torch").tensor([[5, 17, 200, 33]])
attached, dropped, held, threaded, suspended, stacked = (tiny("llama") for _ in range(6))
dola.attach(attached)
attached.generate(ids, max_new_tokens=2)
dola.attach(dropped)
del dropped
gc.collect()
attachment = dola.attach(held)
inside = threading.Event()

def wait():
    with dola.attach(threaded):
        inside.set()
        threading.Event().wait()

def steps():
    with dola.attach(suspended):
        yield

threading.Thread(target=wait, daemon=True).start()
inside.wait()
generator = steps()
next(generator)
stack = contextlib.ExitStack()
stack.enter_context(dola.attach(stacked))
dola.install(dola.DoLaConfig.reference())
print("end")
"""


def test_a_script_that_ends_while_attached_prints_nothing():
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=tests, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# Others take our hooks off, or keep what they have seen


def clear(*tables):
    def cleared(model):
        for module in model.modules():
            for table in tables:
                getattr(module, table).clear()

    return cleared


def put_new_tables(model):
    for module in model.modules():
        module._forward_hooks = OrderedDict()


def clear_candidates(model):
    clear("_forward_pre_hooks")(model.model.layers)


REMOVALS = {
    "after forwards": clear("_forward_hooks"),
    "before forwards": clear("_forward_pre_hooks"),
    "before forwards of blocks": clear_candidates,
    "new tables": put_new_tables,
}


@pytest.mark.parametrize("take", REMOVALS.values(), ids=REMOVALS)
def test_removed_hooks_are_noticed(ids, take):
    """Some scripts clear all hooks when they end. Without an error the logits would silently be plain."""
    model = tiny("llama")
    plain = model(ids).logits
    with dola.attach(model, "high"):
        model(ids)
        take(model)
        with pytest.raises(dola.DolaError):
            model(ids)
        with pytest.raises(AttachError, match="Something removed DoLa's hooks from LlamaForCausalLM"):
            model.generate(ids, max_new_tokens=1, do_sample=False)
    assert torch.equal(model(ids).logits, plain)


def test_generate_notices_that_all_hooks_are_gone(ids):
    model = tiny("llama")
    with dola.attach(model, "high"):
        clear("_forward_hooks", "_forward_pre_hooks")(model)
        with pytest.raises(AttachError, match="Something removed DoLa's hooks"):
            model.generate(ids, max_new_tokens=1, do_sample=False)


def test_a_saved_reference_to_generate_is_plain_after_remove(ids):
    model = tiny("llama")
    call = {"max_new_tokens": 4, "do_sample": False}
    attachment = dola.attach(model, "high")
    kept = model.generate
    attachment.remove()
    assert torch.equal(kept(ids, **call), model.generate(ids, **call))
    model.lm_head = nn.Linear(32, 401, bias=False)
    assert torch.equal(kept(ids, **call), model.generate(ids, **call))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_is_not_copied_in_the_middle_of_a_call(llama, ids):
    class Copies(LogitsProcessor):
        def __call__(self, input_ids, scores):
            copy.deepcopy(llama)

    with pytest.raises(AttachError, match="cannot be copied or pickled while DoLa decodes"):
        dola.generate(llama, ids, dola_layers="high", logits_processor=[Copies()], max_new_tokens=1)
