"""Where the weights lie and in what form: offloaded, in 16 bits, quantized; and modes of torch around the call."""

import asyncio
import threading

import pytest
import torch
from command import save
from families import tiny
from transformers import AutoModelForCausalLM

import dola
from dola.errors import InputError

SETTINGS = {"max_new_tokens": 6, "do_sample": False, "repetition_penalty": 1.2}
PROMPT = torch.tensor([[5, 17, 200, 33, 8]])


def tokens(model, layers="high"):
    with dola.attach(model, layers):
        return model.generate(PROMPT, **SETTINGS).tolist()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("on_disk", [["model.layers.1", "model.layers.3"], ["lm_head"], ["model.norm", "lm_head"]], ids=str)
def test_parts_offloaded_to_the_disk(saved, tmp_path, on_disk):
    pytest.importorskip("accelerate")
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", *(f"model.layers.{j}" for j in range(6))]
    placed = {part: "disk" if part in on_disk else "cpu" for part in parts}
    model = AutoModelForCausalLM.from_pretrained(saved, device_map=placed, offload_folder=tmp_path).eval()
    whole = AutoModelForCausalLM.from_pretrained(saved).eval()
    assert any(parameter.is_meta for parameter in model.parameters())
    for layers in ("high", [1]):
        assert tokens(model, layers) == tokens(whole, layers)
    assert torch.equal(model.generate(PROMPT, **SETTINGS), whole.generate(PROMPT, **SETTINGS))


@pytest.mark.parametrize(("memory", "places"), [(160_000, {"cpu", "disk"}), (10**9, set())], ids=["half", "all"])
def test_device_map_auto(saved, tmp_path, memory, places):
    """accelerate puts on the disk what does not fit: this model has 325,504 bytes."""
    pytest.importorskip("accelerate")
    settings = {"device_map": "auto", "max_memory": {"cpu": memory}, "offload_folder": tmp_path}
    model = AutoModelForCausalLM.from_pretrained(saved, **settings).eval()
    assert {*map(str, getattr(model, "hf_device_map", {}).values())} - {"cpu"} == places - {"cpu"}
    whole = AutoModelForCausalLM.from_pretrained(saved).eval()
    for layers in ("high", "all", [1]):
        assert tokens(model, layers) == tokens(whole, layers)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch before 2.7 does not say that it exports")
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # of transformers itself
@pytest.mark.parametrize("strict", [False, True])
def test_export_is_refused_with_dola_and_works_without(llama, strict):
    with dola.attach(llama):
        llama(PROMPT)
        # The strict tracer cannot follow the making of our error, and ends with one of its own there.
        refused = (torch._dynamo.exc.Unsupported, "super") if strict else (InputError, "torch.export cannot keep DoLa")
        with pytest.raises(refused[0], match=refused[1]):
            torch.export.export(llama, (PROMPT,), kwargs={"use_cache": False}, strict=strict)
        assert len(llama.generate(PROMPT, **SETTINGS)[0]) == 11
    exported = torch.export.export(llama, (PROMPT,), kwargs={"use_cache": False}, strict=strict)
    torch.testing.assert_close(exported.module()(PROMPT, use_cache=False).logits, llama(PROMPT).logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype):
    model = tiny("llama", dtype=dtype)
    with torch.no_grad(), dola.attach(model):
        scores = model(PROMPT).logits
    assert scores.dtype == torch.promote_types(dtype, torch.float32)
    assert scores.isfinite().all()
    assert len(tokens(model)[0]) == 11


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_of_autograd(llama, mode):
    expected = tokens(llama)
    with mode():
        assert tokens(llama) == expected
        with dola.attach(llama):
            assert not model_output(llama).requires_grad


def model_output(model):
    return model(PROMPT).logits


def test_attached_inside_inference_mode_and_used_outside(llama):
    expected = tokens(llama)
    with torch.inference_mode():
        attached = dola.attach(llama)
        inside = llama.generate(PROMPT, **SETTINGS).tolist()
    outside = llama.generate(PROMPT, **SETTINGS).tolist()
    attached.remove()
    assert inside == outside == expected


def test_training_mode_is_refused():
    model = tiny("llama").train()
    with pytest.raises(InputError, match=r"training mode(.|\n)*model\.eval\(\)"):
        tokens(model)
    with pytest.raises(InputError, match="training mode"):
        dola.generate(model, PROMPT, **SETTINGS)
    assert tokens(model.eval()) == tokens(tiny("llama"))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_gradient_checkpointing_that_was_left_on_changes_nothing_in_eval_mode():
    model = tiny("llama")
    expected = tokens(model)
    model.gradient_checkpointing_enable()
    assert tokens(model) == expected


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_peft_before_and_after_attach_ends_at_the_same_contrast():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    base = tiny("llama")
    torch.manual_seed(1)
    before = peft.get_peft_model(base, settings).eval()
    with dola.attach(before, "high"):
        expected = before.generate(PROMPT, **SETTINGS).tolist()
    base = tiny("llama")
    with dola.attach(base, "high"):
        torch.manual_seed(1)
        after = peft.get_peft_model(base, settings).eval()
        assert after.generate(PROMPT, **SETTINGS).tolist() == expected
    assert expected != tokens(tiny("llama"))


def test_int8_weights_of_quanto():
    quanto = pytest.importorskip("optimum.quanto")
    model = tiny("llama")
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)
    with torch.no_grad():
        states = model(PROMPT, output_hidden_states=True)
        with dola.attach(model, [2], anatomy=None):
            scores = model(PROMPT).logits[0, -1]
        premature = model.lm_head(model.model.norm(states.hidden_states[2][0, -1:]))[0]
    expected = dola.contrast.contrast(states.logits[0, -1], premature[None])
    torch.testing.assert_close(scores, expected, atol=2e-4, rtol=1e-4)


def test_an_asyncio_server_loop_answers_as_one_at_a_time(llama):
    """Requests that run in threads, as web servers do, plain ones among them."""
    ways = ["high", "low", [1, 3], None] * 3

    def answer(layers):
        if layers is None:
            return llama.generate(PROMPT, **SETTINGS).tolist()
        return dola.generate(llama, PROMPT, dola_layers=layers, **SETTINGS).tolist()

    async def serve():
        return await asyncio.gather(*(asyncio.to_thread(answer, layers) for layers in ways))

    expected = [answer(layers) for layers in ways]
    assert asyncio.run(serve()) == expected


def test_an_attached_model_serves_threads_alike(llama):
    with dola.attach(llama, "high"):
        expected, found = llama.generate(PROMPT, **SETTINGS).tolist(), []
        threads = [threading.Thread(target=lambda: found.append(llama.generate(PROMPT, **SETTINGS).tolist())) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected] * 6
