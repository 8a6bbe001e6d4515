"""docs/supported-models.md: DoLa on a tiny random model of every text-generation architecture of the installed transformers.

    make models                                     all of them, in some minutes, into the page
    make models MODELS="mamba gemma3n_text"         some of them anew, the others as they were found before

Each model is made and checked in a process of its own, so that none can stop the others. What differs in float32 is done again in
float64: where it agrees then, it was rounding ("noise"), and where it does not it is wrong. `integration/test_architectures.py`
holds a part of the page in CI.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import any_model
import torch
import transformers
from families import spread_logits
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import dola
from dola.doctor.checks import contrast_error
from dola.model.anatomy import Anatomy

PAGE = Path(__file__).parents[1] / "docs" / "supported-models.md"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "architectures.json"
SECONDS = 300
"""How long one architecture may take."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest difference, relative to the largest logit, that is rounding. float32 is rerun in float64 beyond it."""
CONFIGS = (dola.DoLaConfig("high"), dola.DoLaConfig.reference("high"), dola.DoLaConfig([0]))
CHECKS = ("readout", "contrast", "removed", "padding", "static cache")
YES, NOISE, PLAIN, NONE, WRONG = "yes", "noise", "as plain", "-", "WRONG"


@dataclass
class Outcome:
    """What became of one architecture: `works`, `refused`, `not built` or `wrong`."""

    model_type: str
    status: str
    class_name: str = ""
    note: str = ""
    found: str = ""
    checks: dict[str, str] = field(default_factory=dict)


class Trial:
    """The checks of one model. Each answers YES, PLAIN (as it is without DoLa) or NONE (cannot be asked), or raises AssertionError."""

    def __init__(self, model: Any, inputs: dict[str, Any] | None = None) -> None:
        self.model, self.anatomy = model, Anatomy.of(model)
        self.inputs = inputs or {"input_ids": torch.tensor([[5, 17, 200, 33, 8, 91, 4]])}
        self.dtype = next(model.parameters()).dtype
        self.inputs["use_cache"] = False

    @torch.no_grad()
    def readout(self) -> str:
        """The last block's output, read out, is the model's logits."""
        logits, states, _ = self._states()
        error = self.anatomy.readout_error(states[-1], logits)
        assert error <= TOLERANCE[self.dtype], f"the readout differs from the logits by {error:.1e}"
        return YES

    @torch.no_grad()
    def contrast(self) -> str:
        """Scores are those recomputed from the states, which are the model's own `hidden_states` where it returns them."""
        logits, states, reported = self._states()
        largest = logits[logits.isfinite()].abs().max().item()
        for config in CONFIGS:
            with dola.attach(self.model, config) as attached:
                scores = self.model(**self.inputs).logits
            candidates = [
                self.anatomy.readout(states[j], final_norm=config.final_norm, logit_transform=not config.raw_head)
                for j in attached.layers
            ]
            for position in range(-3, 0):
                rows = torch.stack([candidate[0, position] for candidate in candidates]).double()
                slack = TOLERANCE[self.dtype] * max(largest, 1.0)
                mature = logits[0, position].double()
                error = contrast_error(scores[0, position].double(), mature, rows, config, slack)
                assert error <= 2 * slack, f"scores of {config} differ by {error:.1e}"
        return YES if reported else "yes (its blocks' states)"

    def removed(self) -> str:
        """DoLa leaves nothing on the model."""
        self.model(**self.inputs)  # transformers puts hooks of its own on
        before, logits = self._marks(), self.model(**self.inputs).logits
        with dola.attach(self.model, "high"):
            assert not torch.equal(self.model(**self.inputs).logits, logits)
        assert self._marks() == before, "hooks or attributes are left"
        assert torch.equal(self.model(**self.inputs).logits, logits), "logits are others than before"
        return YES

    def padding(self) -> str:
        """Two rows in a batch, one of them padded on the left, give the tokens that each gives alone."""
        short, long = [7, 30, 9], [5, 17, 200, 33, 8]
        padded, mask = torch.tensor([[0, 0, *short], long]), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])

        def alike() -> bool:
            together = self._tokens(padded, attention_mask=mask)
            return together == [self._tokens(torch.tensor([row]))[0] for row in (short, long)]

        def close() -> bool:  # positions that padding moves need not change a token of plain decoding
            settings = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
            first = self.model.generate(padded, attention_mask=mask, **settings).logits[0][0]
            alone = self.model.generate(padded[:1, 2:], attention_mask=mask[:1, 2:], **settings).logits[0][0]
            return torch.allclose(first, alone, atol=1e-3 * alone.abs().max().item())

        try:
            plain = alike() and close()
        except Exception as error:  # no cache, or no batches, in this architecture
            return f"- ({type(error).__name__} without DoLa)"
        with dola.attach(self.model, "high"):
            same = alike()
        assert same or not plain, "a row's tokens depend on its neighbor or padding"
        return YES if same else PLAIN

    def static_cache(self) -> str:
        """A static cache gives the tokens of a dynamic one."""
        prompt, static = torch.tensor([[5, 17, 200, 33, 8]]), {"cache_implementation": "static"}
        try:
            plain = self._tokens(prompt, **static) == self._tokens(prompt)
        except Exception:
            return NONE
        with dola.attach(self.model, "high"):
            same = self._tokens(prompt, **static) == self._tokens(prompt)
        assert same or not plain, "tokens differ with a static cache"
        return YES if same else PLAIN

    def _tokens(self, prompt: torch.Tensor, **settings: Any) -> list[list[int]]:
        settings = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 6, "do_sample": False, **settings}
        out = self.model.generate(prompt, repetition_penalty=1.2, **settings)
        return out[:, prompt.shape[1] :].tolist()

    def _states(self) -> tuple[Any, list[Any], bool]:
        """Logits [1, T, V], the N+1 residual streams [1, T, d] by hooks of our own, and whether the model reports the same."""
        states: dict[int, Any] = {}

        def keep(layer: int, passed: Any) -> None:
            states[layer] = self.anatomy.residual(passed).clone()

        handles = [
            block.register_forward_pre_hook(lambda m, a, k, j=j: keep(j, a[0] if a else k["hidden_states"]), with_kwargs=True)
            for j, block in enumerate(self.anatomy.blocks)
        ]
        last = self.anatomy.num_layers
        handles.append(self.anatomy.blocks[-1].register_forward_hook(lambda m, a, o: keep(last, o)))
        out = self.model(**self.inputs, output_hidden_states=True, return_dict=True)
        for handle in handles:
            handle.remove()
        for j in range(last - 1, -1, -1):  # blocks that did not run (Mllama without an image) leave the stream as it is
            states.setdefault(j, states[j + 1])
        found = [states[j] for j in range(last + 1)]
        reported = getattr(out, "hidden_states", None)
        try:
            same = reported is not None and all(
                torch.equal(self.anatomy.residual(theirs), ours) for theirs, ours in zip(reported[:last], found, strict=False)
            )
        except (RuntimeError, ValueError):
            same = False
        return out.logits, found, same and len(reported or ()) == last + 1

    def _marks(self) -> Any:
        lm = self.anatomy.lm
        hooks = [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in lm.named_modules()]
        return hooks, {name for name in lm.__dict__ if name not in ("_compiled_call",)}


def try_out(model_type: str) -> Outcome:
    """Make one architecture's model and check it."""
    try:
        config = any_model.config_of(model_type)
        model = any_model.build(config)
    except Exception as error:
        return Outcome(model_type, "not built", note=_words(error))
    try:
        Anatomy.of(model)
    except dola.errors.ModelError as error:
        return Outcome(model_type, "refused", type(model).__name__, note=error.message)
    try:
        ids = {"input_ids": torch.tensor([[5, 17, 200, 33, 8, 91, 4]])}
        spread_logits(model, ids)
        finite = model(**ids).logits.isfinite().any()
    except Exception as error:
        return Outcome(model_type, "not built", note=_words(error))
    if not finite:
        return Outcome(model_type, "not built", note="its logits are NaN in the random model")
    try:
        trial = Trial(model)
        trial.model(**trial.inputs)
        with dola.attach(model):
            model(**trial.inputs)
    except dola.errors.DolaError as error:
        return Outcome(model_type, "refused", type(model).__name__, note=error.message)
    checks, note = judge(trial)
    status = "wrong" if WRONG in checks.values() else "works"
    return Outcome(model_type, status, type(model).__name__, note, _special(trial.anatomy.describe()), checks)


def judge(trial: Trial) -> tuple[dict[str, str], str]:
    """All checks of a model by name, and what was wrong. Failures are tried again in float64."""
    checks, notes = {}, []
    for name in CHECKS:
        method = name.replace(" ", "_")
        try:
            checks[name] = getattr(trial, method)()
        except Exception as error:
            agrees, why = _in_float64(trial.model, method)
            checks[name] = NOISE if agrees else WRONG
            if not agrees:
                notes.append(f"{name}: {_words(error)}; in float64: {why}")
    return checks, "; ".join(notes)


def _in_float64(model: Any, check: str) -> tuple[bool, str]:
    try:
        with _default_dtype(torch.float64):
            getattr(Trial(model.double()), check)()
        return True, ""
    except Exception as error:
        return False, _words(error)
    finally:
        model.float()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160].replace("|", "/")


def run(model_types: Iterable[str], work: Callable[[str], Outcome] = try_out, seconds: float = SECONDS) -> list[Outcome]:
    """`work` for each model type in a process of its own, that is killed if it takes too long."""
    any_model.build(any_model.config_of("llama")).generate(torch.tensor([[5, 6]]), max_new_tokens=2)  # imports, once for all
    context = multiprocessing.get_context("fork")
    outcomes = []
    for model_type in model_types:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(theirs, work, model_type))
        start = time.monotonic()
        process.start()
        theirs.close()
        try:
            outcome = ours.recv() if ours.poll(seconds) else Outcome(model_type, "not built", note=f"longer than {seconds} s")
        except EOFError:
            process.join()
            outcome = Outcome(model_type, "not built", note=f"its process ended with exit code {process.exitcode}")
        process.kill()
        process.join()
        print(
            f"{outcome.status:10} {model_type} {time.monotonic() - start:.1f}s {outcome.checks} {outcome.note}", file=sys.stderr
        )
        outcomes.append(outcome)
    return outcomes


def _send(pipe: Any, work: Callable[[str], Outcome], model_type: str) -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    pipe.send(work(model_type))


def page(outcomes: list[Outcome]) -> str:
    """docs/supported-models.md."""
    kinds = {status: [o for o in outcomes if o.status == status] for status in ("works", "wrong", "refused", "not built")}
    lines = [
        HEAD.format(version=transformers.__version__, total=len(outcomes), **{k.split()[0]: len(v) for k, v in kinds.items()})
    ]
    lines += ["## Works", "", f"| model type | class | {' | '.join(CHECKS)} | found |", "|---" * (len(CHECKS) + 3) + "|"]
    for o in kinds["works"] + kinds["wrong"]:
        cells = " | ".join(o.checks[name] for name in CHECKS)
        lines.append(f"| {o.model_type} | {o.class_name} | {cells} | {o.found}{o.note} |")
    for status, title in (("refused", "Refused, with the reason"), ("not built", "Not tested: no tiny model could be made")):
        lines += ["", f"## {title}", "", "| model type | reason |", "|---|---|"]
        lines += [f"| {o.model_type} | {o.note} |" for o in kinds[status]]
    return "\n".join(lines) + "\n"


def _special(parts: str) -> str:
    """What is not as in Llama."""
    found = dict(part.split(": ", 1) for part in parts.split(", ") if ": " in part)
    named = ("projection", "logit transform", "residual stream from")
    special = [f"{name} {found[name]}" for name in named if found.get(name, "none") != "none"]
    special += ["no final norm"] if found.get("final norm") == "none" else []
    return ", ".join(special)


HEAD = """<!-- Generated by tests/model_matrix.py; do not edit. -->
# Supported architectures

At the end of this page you know whether DoLa works with your model's architecture, and if not, why. The page lists every
text-generation architecture of transformers {version} ({total} of them). Each was tested as a tiny random model.

{works} work, {wrong} are wrong, {refused} are refused with the reason, and for {not} no model could be made. `make models`
updates this page.

Each is tested in float32:

- **readout**: the last block's output, read out, is the model's logits.
- **contrast**: scores with the default, with `DoLaConfig.reference` and with one layer equal a contrast in float64 of the
  model's own `hidden_states` (or, where a row says so, of its blocks' states, because the model reports no or other states).
- **removed**: no hook, no attribute and no changed logit is left after `remove()`.
- **padding**: two rows in a batch, one padded on the left, give the tokens that each gives alone.
- **static cache**: the tokens of a dynamic one.

"as plain": the model without DoLa gives other tokens there too. "noise": different in float32, the same in float64. "-": the
model cannot do it without DoLa. Every architecture here works without naming its parts; if yours does not, [add
it](add-a-model.md).

"""


def main() -> None:
    """Try the model types that the command line names, or all, and write the page."""
    before = {made["model_type"]: Outcome(**made) for made in json.loads(RESULTS.read_text())} if sys.argv[1:] else {}
    found = run(sys.argv[1:] or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    everything = {**before, **{outcome.model_type: outcome for outcome in found}}
    ordered = [everything[name] for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in everything]
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(asdict(outcome)) for outcome in ordered) + "\n]\n")
    PAGE.write_text(page(ordered))
    sys.exit(any(outcome.status == "wrong" for outcome in found))


if __name__ == "__main__":
    main()
