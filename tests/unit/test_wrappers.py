"""Wrappers around a causal LM: which are removed, which are refused, and where the error says the model is."""

import pytest
import torch
import torch.distributed as dist
from families import tiny
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import dola
from dola.errors import CaptureError, InputError, ModelError
from dola.model.wrappers import causal_lm, inside, unwrap

FAST = {"max_new_tokens": 3, "do_sample": False}


class HandsThrough(nn.Module):
    """Like FSDP, it looks up attributes that it does not have in the model."""

    def __init__(self, model):
        super().__init__()
        self.module = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["module"], name)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class Engine(nn.Module):
    """Like DeepSpeed's engine: the module is also in its `__dict__`, and attributes are found through `dir`."""

    def __init__(self, model):
        super().__init__()
        self.__dict__["_modules"]["module"] = model
        self.__dict__["module"] = model

    def __getattr__(self, name):
        if name in dir(self.__dict__["module"]):
            return getattr(self.__dict__["module"], name)
        raise AttributeError(name)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class Lightning(nn.Module):
    """A module of one's own with the model somewhere in it."""

    def __init__(self, model):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(2, 2), model])


class Pipeline:
    """Not a module: a pipeline, a trainer."""

    def __init__(self, model):
        self.model = model


class Hides(nn.Module):
    """Passes attributes through from a model that cannot be found by inspection."""

    def __init__(self, model):
        super().__init__()
        self._get = lambda: model

    def __getattr__(self, name):
        return getattr(self.__dict__["_get"](), name)


class Delegates(nn.Module):
    """Has every attribute that dola reads, and generates with the model inside."""

    def __init__(self, model):
        super().__init__()
        self.config, self.llm = model.config, model

    def get_input_embeddings(self):
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self):
        return self.llm.get_output_embeddings()

    def forward(self, *args, labels=None, **kwargs):
        return self.llm(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.llm.generate(*args, **kwargs)


class DelegatesUnseen(Delegates):
    """The same, and its `generate` does not show it."""

    def generate(self, *args, **kwargs):
        return self._decode(*args, **kwargs)

    def _decode(self, *args, **kwargs):
        return self.llm.generate(*args, **kwargs)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (nn.DataParallel, "module"),
        (HandsThrough, "module"),
        (Engine, "module"),
        (lambda model: HandsThrough(HandsThrough(model)), "module.module"),
        (lambda model: nn.DataParallel(compiled(model)), "module"),
        (lambda model: compiled(nn.DataParallel(model)), "module"),
        (lambda model: HandsThrough(compiled(model)), "module"),
        (Lightning, "parts[1]"),
        (Pipeline, "model"),
        (lambda model: Pipeline(Engine(model)), "model.module"),
    ],
)
def test_a_wrapper_is_refused_by_the_name_of_what_is_inside(llama, ids, wrap, place):
    model = wrap(llama)
    before = [sorted(vars(each)) for each in (model, llama)]
    for way in (lambda: dola.attach(model), lambda: dola.generate(model, ids, **FAST)):
        with pytest.raises(ModelError) as error:
            way()
        assert error.value.hint == f"use model.{place}, the LlamaForCausalLM inside"
        assert [sorted(vars(each)) for each in (model, llama)] == before
    named = eval(f"model.{place}", {"model": model})
    assert causal_lm(named) is llama
    dola.attach(named).remove()


def test_a_wrapper_that_hides_its_model_is_refused(llama):
    with pytest.raises(ModelError, match=r"Hides is a wrapper(.|\n)*pass the causal language model itself"):
        dola.attach(Hides(llama))


@pytest.mark.parametrize("model", ["gpt2", None, (1, 2), len])
def test_something_that_is_not_a_model_is_refused(model):
    for way in (dola.attach, dola.generate):
        with pytest.raises(ModelError, match=r"not a Hugging Face model(.|\n)*AutoModelForCausalLM"):
            way(model)


def test_a_model_without_a_head_names_a_part_that_has_one(llama):
    """Like Qwen2.5-Omni: the whole model has no head, but its thinker does."""

    class Omni(nn.Module):
        def __init__(self):
            super().__init__()
            self.config, self.thinker = llama.config, llama

        def get_output_embeddings(self):
            return None

    with pytest.raises(ModelError, match=r"no LM head(.|\n)*use model.thinker, the LlamaForCausalLM inside"):
        dola.attach(Omni())
    assert inside(llama.model) is None


def test_a_model_that_generates_with_a_part_of_it_is_that_part(llama, ids):
    model = Delegates(llama)
    with dola.attach(llama):
        right, logits = llama.generate(ids, **FAST), llama(ids).logits
    with dola.attach(model) as attached:
        assert model.dola is attached
        assert torch.equal(model.generate(ids, **FAST), right)
        assert torch.equal(model(ids).logits, logits)
        with pytest.raises(InputError, match="labels= was given"):
            model(ids, labels=ids)
    assert "dola" not in vars(model)
    assert torch.equal(dola.generate(model, ids, **FAST), right)


def test_a_model_that_does_so_unseen_names_the_part(llama, ids):
    model = DelegatesUnseen(llama)
    for way in (lambda: dola.attach(model) and model.generate(ids, **FAST), lambda: dola.generate(model, ids, **FAST)):
        with pytest.raises(CaptureError, match=r"outside a call(.|\n)*or attach to model.llm, the LlamaForCausalLM inside"):
            way()
        if hasattr(model, "dola"):
            model.dola.remove()
    assert not llama._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # of PEFT with new transformers
def test_peft_and_compile_wrappers_are_taken_off():
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert unwrap(wrapped) is unwrap(compiled(wrapped)) is unwrap(model) is model
    assert inside(nn.DataParallel(wrapped)) == "model.module, the LlamaForCausalLM inside"
    assert inside(HandsThrough(wrapped)) == "model.module, the LlamaForCausalLM inside"
    with pytest.raises(ModelError, match=r"use model.module"):
        dola.attach(HandsThrough(wrapped))


def test_a_model_without_generate(llama, ids, monkeypatch):
    monkeypatch.setattr(type(llama), "generate", property(lambda self: self.no_such_attribute))
    with pytest.raises(ModelError, match=r"has no generate(.|\n)*model\(\*\*inputs\).logits"):
        dola.generate(llama, ids)
    with dola.attach(llama):
        assert llama(ids).logits.shape[-1] == 401


@pytest.fixture
def one_process(tmp_path):
    if not dist.is_available():
        pytest.skip("this torch has no torch.distributed")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of torch, about FSDP on a CPU
@pytest.mark.usefixtures("one_process")
def test_torchs_own_wrappers(ids):
    right = dola.generate(tiny("llama"), ids, **FAST)
    model = tiny("llama")
    model.lm_head.weight.requires_grad_(True)
    fsdp = FullyShardedDataParallel(tiny("llama"), device_id=torch.device("cpu"))
    for wrapped in (nn.parallel.DistributedDataParallel(model), fsdp):
        for way in (lambda wrapped=wrapped: dola.attach(wrapped), lambda wrapped=wrapped: dola.generate(wrapped, ids, **FAST)):
            with pytest.raises(ModelError, match=r"use model\.module, the LlamaForCausalLM inside"):
                way()
    with FullyShardedDataParallel.summon_full_params(fsdp):
        assert torch.equal(dola.generate(fsdp.module, ids, **FAST), right)
    if not hasattr(torch.cpu.Stream, "record_event"):
        return  # this torch does not shard so on a CPU
    sharded = fully_shard(tiny("llama"), mesh=init_device_mesh("cpu", (1,)))  # FSDP2 changes the class, and wraps nothing
    assert torch.equal(dola.generate(sharded, ids, **FAST), right)
