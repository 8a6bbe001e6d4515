"""docs/vllm-models.md: DoLa in the engine on a tiny random model of every architecture of the installed vLLM.

    python tests/serving/vllm_matrix.py                              all that have no result yet, then the page
    python tests/serving/vllm_matrix.py OlmoForCausalLM ...          these again
    python tests/serving/vllm_matrix.py --page                       the page alone

Tokens are compared with `dola.generate` in float32, one by one. Each architecture has a process of its own, forked from one
that has imported vLLM, and a time limit. Results are kept as they come, so an interrupted run continues.
"""

from __future__ import annotations

import gc
import inspect
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from textwrap import fill
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "vllm-architectures.json"
PAGE = Path(__file__).parents[2] / "docs" / "vllm-models.md"
USED = (
    "dola.integrations.vllm.models",
    "dola.integrations.vllm.mixin",
    "dola.integrations.vllm.requests",
    "dola.integrations.vllm.gate",
    "vllm.v1.engine.core",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.transformers",
    "vllm.model_executor.layers.fused_moe.layer",
    "vllm.entrypoints.openai.chat_completion.protocol",
    "vllm.entrypoints.anthropic.serving",
    "vllm.entrypoints.scale_out.token_in_token_out.serving",
)
"""Modules that engines import, imported once before forks."""
SECONDS = 150
"""Time limit of one architecture."""
PROMPTS = [[5, 17, 200, 33, 8, 91, 4], [7, 30, 9], [44, 180, 12, 6, 250]]
WAYS: list[Any] = ["high", "low", [0], [1, 3]]
SIZES = {  # what vLLM's kernels for CPUs take
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim_model", "d_embed", "embedding_size", "embed_dim"), 64),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "n_head_kv"), 1),
    **dict.fromkeys(("head_dim", "attention_head_dim", "global_head_dim", "swa_head_dim", "kv_channels"), 32),
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "kv_lora_rank": 512,
    "q_lora_rank": 64,
    "rotary_dim": 16,
}
RIGHT, REFUSED, WRONG, OTHER, NOT_RUN, NO_REFERENCE = "right", "refused", "wrong", "plain differs", "not run", "no reference"


@dataclass
class Outcome:
    """What became of one architecture."""

    architecture: str
    kind: str
    status: str
    note: str = ""
    found: str = ""
    model_type: str = ""


def architectures() -> dict[str, str]:
    """Every architecture that generates text, and its kind."""
    from vllm.model_executor.models import registry

    text = {**registry._TEXT_GENERATION_MODELS, **registry._TRANSFORMERS_SUPPORTED_MODELS}
    return {**dict.fromkeys(text, "text"), **dict.fromkeys(registry._MULTIMODAL_MODELS, "multimodal")}


def reference(architecture: str) -> Any:
    """The tiny random model of transformers; None if it does not have the class."""
    import any_model
    import torch
    import transformers
    from families import spread_logits
    from vllm_sizes import GAIN, SETTINGS

    kind = getattr(transformers, architecture, None)
    if kind is None or getattr(kind, "config_class", None) is None:
        return None
    any_model.SIZES.update(SIZES)
    any_model.HEADS = 2
    config = any_model._shrunk(kind.config_class, SETTINGS.get(kind.config_class.model_type, {}))
    _fit_sections(config.get_text_config(), kind)
    vision = getattr(config, "vision_config", None)
    if isinstance(getattr(vision, "patch_size", None), int) and isinstance(getattr(vision, "image_size", None), int):
        vision.image_size = 2 * vision.patch_size  # a whole number of patches
    tied = any(getattr(each, "tie_word_embeddings", False) for each in (config, config.get_text_config()))
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in kind(config).parameters())
    if size > any_model.LARGEST:
        raise ValueError(f"its config leaves {size:,} parameters")
    torch.manual_seed(0)
    model = kind(config).float().eval()
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and ("norm" in name.lower() or "ln_" in name):
            parameter.add_((3 if tied else 0.3) * torch.randn_like(parameter))
        elif parameter.dim() > 1:
            parameter.mul_(GAIN.get(config.model_type, 3))
    try:
        spread_logits(model, {"input_ids": torch.arange(3, 40)[None]})
    except Exception:  # a class whose head is not where transformers looks for it
        traceback.print_exc()
    model.generation_config.eos_token_id = None
    return model


def _fit_sections(text: Any, kind: type) -> None:
    """Make the parts of rotary positions, for time, height and width, as long together as half of a head."""
    divided = "mrope_section" in Path(inspect.getfile(kind)).read_text()  # some classes have a default for real sizes
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(text, name, None)
        if isinstance(rope, dict) and divided:
            half = int(SIZES["head_dim"] * rope.get("partial_rotary_factor", 1)) // 2
            third = half // 3
            rope["mrope_section"] = [half - 2 * third, third, third]


def save(model: Any, architecture: str, folder: Path) -> None:
    """A folder that vLLM reads."""
    import command

    model.config.architectures = [architecture]
    model.save_pretrained(folder)
    command.tokenizer().save_pretrained(folder)


def expected(model: Any) -> dict[str, Any]:
    """Tokens of each way, by `dola.generate` and plainly, and the log-probabilities of the plain ones."""
    import torch

    import dola

    found: dict[str, Any] = {"plain": [], **{str(way): [] for way in WAYS}, "log_probs": []}
    for ids in PROMPTS:
        prompt = torch.tensor([ids])
        given = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(prompt), "pad_token_id": 0}
        out = model.generate(prompt, output_logits=True, return_dict_in_generate=True, **given)
        found["plain"].append(out.sequences[0, len(ids) :].tolist())
        found["log_probs"].append([logits[0].float().log_softmax(-1).max().item() for logits in out.logits])
        for way in WAYS:
            found[str(way)].append(dola.generate(model, prompt, dola_layers=way, **given)[0, len(ids) :].tolist())
    return found


def engine(folder: Path, dola: dict[str, Any] | None, **settings: Any) -> Any:
    """A vLLM engine on a folder."""
    from vllm import LLM

    given = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128, "max_num_seqs": 8, "seed": 0}
    given |= {"skip_tokenizer_init": False, "disable_log_stats": True, "enable_prefix_caching": False}
    given |= {"kv_cache_memory_bytes": 2**26}  # which vLLM fills with zeros
    extra = {} if dola is None else {"additional_config": {"dola": dola}}
    return LLM(str(folder), **extra, **given, **settings)


def decoded(llm: Any, options: Any) -> list[list[int]]:
    """Tokens of the prompts with these options of DoLa."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False, extra_args=options)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def try_out(architecture: str, kind: str, *, plain_only: str = "") -> Outcome:
    """Decode one architecture's model and compare.

    Args:
        architecture: Name of vLLM's class.
        kind: text or multimodal.
        plain_only: Why DoLa was refused; then only whether plain vLLM decodes is of interest.
    """
    try:
        model = reference(architecture)
    except Exception as error:
        return Outcome(architecture, kind, NO_REFERENCE, _words(error))
    if model is None:
        return Outcome(architecture, kind, NO_REFERENCE, "transformers has no class of this name")
    model_type = model.config.model_type
    try:
        wanted = expected(model)
    except Exception as error:
        return Outcome(architecture, kind, NO_REFERENCE, f"dola.generate: {_words(error)}", "", model_type)
    settings = {"language_model_only": True} if kind == "multimodal" else {}
    with tempfile.TemporaryDirectory() as folder:
        save(model, architecture, Path(folder))
        del model
        dola = None if plain_only else {"layers": "high", "capture": "all", "default": "off"}
        try:
            llm = engine(Path(folder), dola, **settings)
            plain = decoded(llm, None)
        except Exception as error:
            traceback.print_exc()
            ours = "" if plain_only else _dola_error(error)
            return Outcome(architecture, kind, REFUSED if ours else NOT_RUN, ours or _words(error), "", model_type)
        if plain != wanted["plain"]:
            note = f"{_same(plain, wanted['plain'])} tokens of plain vLLM are those of transformers"
            return Outcome(architecture, kind, OTHER, f"{plain_only} {note}".strip(), _found(llm), model_type)
        if plain_only:
            return Outcome(architecture, kind, REFUSED, plain_only, "", model_type)
        wrong = []
        for way in WAYS:
            found = decoded(llm, {"dola_layers": way})
            if found != wanted[str(way)]:
                wrong.append(f"{way}: {_same(found, wanted[str(way)])} tokens alike")
        if wrong and (distance := _plain_distance(llm, wanted["log_probs"])) > 1e-2:
            note = f"the same plain tokens, but their log-probabilities differ by up to {distance:.2f} nats"
            return Outcome(architecture, kind, OTHER, note, _found(llm), model_type)
        differs = sum(wanted[str(way)] != wanted["plain"] for way in WAYS)
        note = "; ".join(wrong) or f"{differs} of {len(WAYS)} ways differ from plain decoding"
        return Outcome(architecture, kind, WRONG if wrong or not differs else RIGHT, note, _found(llm), model_type)


def _plain_distance(llm: Any, log_probs: list[list[float]]) -> float:
    """The largest difference of plain log-probabilities from transformers', in nats. A model whose head is its embedding tends
    to repeat its last token, so equal tokens alone say little."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False, logprobs=1)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)
    found = [[max(each.logprob for each in step.values()) for step in output.outputs[0].logprobs] for output in outputs]
    return max(abs(a - b) for x, y in zip(found, log_probs, strict=True) for a, b in zip(x, y, strict=True))


def _same(one: list[list[int]], other: list[list[int]]) -> str:
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"


def _found(llm: Any) -> str:
    """The parts that DoLa found."""
    try:
        runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
        parts = runner.model._dola_parts
        norm = next((name for name, module in parts.norms if module is parts.norm), "none")
        return f"{parts.path} x {len(parts.blocks)}, {norm}" + ("" if parts.scale == 1 else f" x {parts.scale:.4g}")
    except AttributeError:
        return ""


def _dola_error(error: BaseException | None) -> str:
    from dola.errors import DolaError

    while error is not None:
        if isinstance(error, DolaError):
            return _words(error)
        if "DoLa" in str(error):
            return _words(error)
        error = error.__cause__ or error.__context__
    return ""


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def in_a_process(architecture: str, kind: str, **given: Any) -> Outcome:
    """`try_out` in a fork of this process, with a time limit."""
    with tempfile.TemporaryDirectory() as folder:
        answer, log = Path(folder) / "answer.json", Path(os.environ.get("MATRIX_LOGS", folder)) / f"{architecture}.log"
        child = os.fork()
        if child == 0:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            try:
                answer.write_text(json.dumps(asdict(try_out(architecture, kind, **given))))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        deadline = time.monotonic() + SECONDS
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                return Outcome(architecture, kind, NOT_RUN, f"took longer than {SECONDS} s")
            time.sleep(0.1)
        if answer.exists():
            return Outcome(**json.loads(answer.read_text()))
        return Outcome(architecture, kind, NOT_RUN, f"the process ended: {log.read_text()[-300:]}")


def prepare() -> None:
    """Import everything once, before forks; inspect classes in this process instead of one process each."""
    import vllm_stand_in

    vllm_stand_in.install()
    import torch
    import transformers  # noqa: F401
    from vllm import LLM, SamplingParams  # noqa: F401
    from vllm.model_executor.models import registry

    import dola  # noqa: F401

    def inspected(self: Any) -> Any:
        return registry._ModelInfo.from_model_cls(self.load_model_cls())

    registry._LazyRegisteredModel.inspect_model_cls = inspected
    for module in USED:
        import_module(module)
    gc.freeze()
    gc.collect = lambda *_: 0  # vLLM collects seven times for an engine, which takes longer than the engine
    torch.cpu._is_amx_tile_supported = lambda: False  # latent attention with AMX takes bfloat16 alone


def page(outcomes: list[Outcome], every: dict[str, str]) -> str:
    """The page, in Markdown, with all results so far."""
    lines = [HEAD]
    if len(outcomes) < len(every):
        lines.append(f"**{len(outcomes)} of {len(every)} architectures have been tried so far.**\n")
    for kind in ("text", "multimodal"):
        counts = Counter(outcome.status for outcome in outcomes if outcome.kind == kind)
        ran = counts[RIGHT] + counts[REFUSED] + counts[WRONG]
        lines += [
            f"## {kind.capitalize()}\n",
            fill(
                f"{sum(counts.values())} architectures. Plain vLLM decodes {ran} of them here as transformers does: with DoLa "
                f"{counts[RIGHT]} are right, {counts[REFUSED]} are refused, {counts[WRONG]} are wrong. {counts[OTHER]} decode "
                f"otherwise than transformers without DoLa, {counts[NOT_RUN]} do not run here, and {counts[NO_REFERENCE]} have "
                "no reference.",
                width=126,
            )
            + "\n",
            "| architecture | with DoLa | parts that were found | note |",
            "|---|---|---|---|",
            *(
                f"| {outcome.architecture} | {outcome.status} | {outcome.found} | {_note(outcome)} |"
                for outcome in sorted(outcomes, key=lambda each: (ORDER.index(each.status), each.architecture))
                if outcome.kind == kind
            ),
            "",
        ]
    return "\n".join(lines)


def _note(outcome: Outcome) -> str:
    """The note, short; the words of other programs are quoted."""
    note = " ".join(outcome.note.replace("|", "/").replace("`", "'").split())[:160]
    return f"`{note}`" if outcome.status in (WRONG, NOT_RUN, NO_REFERENCE) and "Error" in note else note


ORDER = (RIGHT, REFUSED, WRONG, OTHER, NOT_RUN, NO_REFERENCE)
HEAD = """# Models in vLLM

At the end of this page you know which architectures of vLLM have been decoded with DoLa, and how that was checked.

`tests/serving/vllm_matrix.py` makes a tiny random model of each architecture and decodes three prompts with four choices of
layers, in the engine (float32, on a CPU, eagerly) and with `dola.generate`. "Right" means that all tokens are the same. This
list decides nothing: an engine serves any model that passes the [proof at start-up](serving.md#architectures), and refuses
others with the reason.

- **refused**: the engine does not start, and says why.
- **wrong**: with DoLa other tokens than `dola.generate`, or no answer at all where plain vLLM gives one.
- **plain differs**: vLLM decodes other tokens than transformers without DoLa, so nothing can be compared.
- **not run**: plain vLLM does not start or fails here, usually because a kernel does not exist for CPUs.
- **no reference**: transformers has no class of this name, or no tiny model of it could be made.

Multimodal models are given text prompts.
"""


def main() -> None:
    """Try the architectures that the command line names, or those without a result, and write the page."""
    done = {made["architecture"]: Outcome(**made) for made in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    named = [name for name in sys.argv[1:] if not name.startswith("-")]
    prepare()
    every = architectures()
    for name in [] if "--page" in sys.argv else named or [name for name in every if name not in done]:
        started = time.monotonic()
        outcome = in_a_process(name, every[name])
        if outcome.status in (REFUSED, NOT_RUN):
            plain = in_a_process(name, every[name], plain_only=outcome.note)
            if outcome.status == NOT_RUN and plain.status == REFUSED:
                plain.status, plain.note = WRONG, f"only plain vLLM runs: {outcome.note}"
            outcome = plain
        done[name] = outcome
        print(
            f"{time.monotonic() - started:5.1f} s  {name}: {outcome.status}. {outcome.note[:200]} [{outcome.found}]", flush=True
        )
        RESULTS.write_text("[\n" + ",\n".join(json.dumps(asdict(done[name])) for name in every if name in done) + "\n]\n")
    PAGE.write_text(page([done[name] for name in every if name in done], every))


if __name__ == "__main__":
    main()
