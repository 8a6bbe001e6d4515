"""The checks of `dola doctor` for one model: its parts, its tokenizer, its readout, and a trial of DoLa on it.

A check that raises counts as failed, with its message, so that a broken model is described instead of stopping the command.
The model is unchanged afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from dola.decoding.as_asked import generate_as_asked, odd_ids, own_config
from dola.decoding.attach import as_config, attach
from dola.decoding.candidates import Read
from dola.decoding.generate import generate
from dola.decoding.reading import Reading
from dola.errors import ConfigError, LayersError, ModelError
from dola.lens.belongs import maps_of
from dola.loading.weights import WeightsReport
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.contrast import contrast, threshold
from dola.methods.divergences import DIVERGENCES
from dola.methods.names import RECOMMENDED_PENALTY
from dola.methods.registry import method_of
from dola.methods.vocabulary import WHOLE, log_probs
from dola.model.anatomy import READOUT_TOLERANCE, Anatomy
from dola.model.generation_fields import FIELDS, review, shown
from dola.model.readout import Readout
from dola.text.checks import chat_report, odd_about
from dola.text.encoding import Encoder

PROMPT = "The capital of Washington State is"
OK, WARNING, FAILED, NOT_RUN = "ok", "warning", "failed", "not run"

CONTRAST_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""The largest |score - recomputed score|, relative to the largest logit, that rounding can cause. In 16 bits the head rounds
each logit, and differently when several layers are read out together: this allows four units in the last place."""

TIMED_TOKENS, TIMED_RUNS = 8, 3
PATIENCE = 20.0
"""If the first timed run, with and without DoLa, takes more seconds than this, it is not repeated."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check. Its status is "ok", "warning", "failed", or "not run" after a failure that rules it out."""

    name: str
    status: str
    text: str


@dataclass(frozen=True)
class Timings:
    """Milliseconds per generated token, including the prompt's forward pass: medians of interleaved runs.

    Attributes:
        plain, dola: Milliseconds per token without and with DoLa.
        tokens, runs: Tokens generated in each run, and runs of each kind.
    """

    plain: float
    dola: float
    tokens: int
    runs: int

    @property
    def ratio(self) -> float:
        """Time per token with DoLa divided by the time without it."""
        return self.dola / self.plain


class Examination:
    """The checks of one model. Each is a method that returns a status and a text, and stores what later checks need."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: MethodConfig | str | Sequence[int] | None,
        weights: Sequence[WeightsReport] = (),
    ) -> None:
        self.model, self.tokenizer, self.asked, self.weights = model, tokenizer, config, weights
        self.anatomy: Anatomy | None = None
        self.layers: tuple[int, ...] = ()
        self.timings: Timings | None = None

    def run(self) -> tuple[Check, ...]:
        """Run all checks in order. The others rely on the foundations, except those of weights and generation config."""
        foundations = (
            ("parts", self._find_parts),
            ("layers", self._resolve_layers),
            ("tokenizer", self._encode),
            ("without DoLa", self._decode_plainly),
            ("readout", self._read_out),
        )
        tries = (
            ("chat template", self._chat),
            ("with DoLa", self._decode_with_dola),
            ("contrast", self._recompute),
            ("after DoLa", self._decode_plainly_again),
            ("speed", self._time),
        )
        needed = {name for name, _ in foundations}
        checks: list[Check] = [Check("weights", *self._compare_weights())] if self.weights else []
        for name, check in (*foundations, *tries):
            broken = next((c.name for c in checks if c.name in needed and c.status == FAILED), None)
            checks.append(Check(name, NOT_RUN, f"because the check of {broken!r} failed") if broken else _outcome(name, check))
        checks.append(_outcome("generation config", self._review, LayersError))
        return tuple(checks)

    def _compare_weights(self) -> tuple[str, str]:
        """The reports on the weights from loading them: the base model's first, then an adapter's."""
        text = "; ".join(report.describe() for report in self.weights if report.fault or report.notes)
        if any(report.fault for report in self.weights):
            return FAILED, text
        return (WARNING, text) if text else (OK, "; ".join(report.describe() for report in self.weights))

    def _find_parts(self) -> tuple[str, str]:
        self.anatomy = Anatomy.of(self.model)
        if hasattr(self.anatomy.lm, "dola"):
            return FAILED, "DoLa is attached to this model already: call model.dola.remove() first"
        return OK, f"found {self.anatomy.num_layers} blocks and their readout"

    def _resolve_layers(self) -> tuple[str, str]:
        anatomy = self._found()
        try:
            self.config = as_config(self.asked, anatomy)
        except ConfigError:
            if self.asked is not None:
                raise
            self.config = DoLaConfig()  # the check of the generation config has failed
        self.layers = anatomy.candidates(self.config.layers)
        return OK, f"candidate layers {', '.join(map(str, self.layers))}; the model has {anatomy.num_layers} layers"

    def _encode(self) -> tuple[str, str]:
        """Encode the prompt and check that the model has embeddings for its tokens."""
        encoder = Encoder.of(self.model, self.tokenizer)
        ids = encoder.text(PROMPT)
        if not ids:
            return FAILED, f"{PROMPT!r} gives no tokens"
        self.inputs = encoder.padded([ids], device=self.model.device)
        sizes = f"{len(self.tokenizer)} tokens; the model has embeddings for {encoder.rows}"
        odd = odd_about(encoder, self.model, PROMPT)
        return (WARNING, f"{sizes}; {'; '.join(odd)}") if odd else (OK, sizes)

    def _chat(self) -> tuple[str, str]:
        return OK, chat_report(Encoder.of(self.model, self.tokenizer))

    def _decode_plainly(self) -> tuple[str, str]:
        self.logits, self.last_hidden, self.hidden_states = self._forward()
        self.marks = _marks(self._found().lm)  # after a forward pass: transformers then adds hooks of its own, and leaves them
        if not self.logits.amax().isfinite():
            return (
                FAILED,
                f"the model's logits are NaN, infinite or all -inf in {str(self.logits.dtype).removeprefix('torch.')}",
            )
        self.tokens = self._two_tokens(self.model.generate)
        return OK, f"the model continues {PROMPT!r} with {self.tokenizer.decode(self.tokens)!r} (two tokens)"

    def _read_out(self) -> tuple[str, str]:
        error = self._found().readout_error(self.last_hidden, self.logits)
        tolerance = READOUT_TOLERANCE.get(self.logits.dtype, 5e-2)
        text = f"the last layer's readout differs from the model's logits by {error:.1e}; allowed: {tolerance:.0e} (relative)"
        return (OK, text) if error <= tolerance else (FAILED, f"{text}; found: {self._found().describe()}")

    def _review(self) -> tuple[str, str]:
        """Report how the verbs treat the model's own generation config."""
        found = review(own_config(self.model))
        with suppress(ModelError):  # its parts were not found: another check reports it
            as_config(None, Anatomy.of(self.model))
        if found.refused:
            names = ", ".join(shown(name, value) for name, value in found.refused.items())
            return FAILED, f"{names} is not supported: {FIELDS[next(iter(found.refused))].why}; remove it from the config"
        groups = {"kept": found.kept, "replaced by options": found.option, "ignored": found.aside, "unknown": found.unknown}
        listed = [f"{what}: {', '.join(shown(*each) for each in of.items())}" for what, of in groups.items() if of]
        odd = odd_ids(self.model)
        text = "; ".join([*listed, *(sentence.rstrip(".") for sentence in odd)]) or "the model's sets nothing"
        return (WARNING if found.aside or found.unknown or odd else OK), text

    def _decode_with_dola(self) -> tuple[str, str]:
        with attach(self.model, self.config):
            attached = self._two_tokens(self.model.generate)
        called = self._two_tokens(lambda **call: generate(self.model, **{**call, "dola_layers": self.config}))
        text = self.tokenizer.decode(attached)
        if attached == called:
            return OK, f"the same prompt continues with {text!r}, by dola.attach and by dola.generate"
        return FAILED, f"dola.attach gives {text!r}, dola.generate {self.tokenizer.decode(called)!r}: they must agree"

    @torch.no_grad()
    def _recompute(self) -> tuple[str, str]:
        """Compare DoLa's scores with a contrast in float64 of the hidden states that the model itself returns."""
        if self.hidden_states is None:
            return WARNING, "the model does not return hidden states, so the scores cannot be recomputed"
        anatomy, config = self._found(), self.config
        with attach(self.model, config):
            scores = self.model(**self.inputs).logits[0, -1]
        maps = maps_of(anatomy, config)
        states = [anatomy.residual(self.hidden_states[j])[0, -1:].to(self.logits.device) for j in self.layers]
        premature = [anatomy.premature(state, config, maps and maps.of_one(k))[0] for k, state in enumerate(states)]
        largest = float(self.logits[self.logits.isfinite()].abs().max())
        tolerance = CONTRAST_TOLERANCE.get(self.logits.dtype, 3e-2) * largest
        exact = scores.double(), self.logits[0].double(), torch.stack(premature).to(scores.device).double()
        error = contrast_error(*exact, config, tolerance) if isinstance(config, DoLaConfig) else method_error(*exact, config)
        lens = "" if config.lens is None else f", layers read through the lens {config.lens}"
        text = f"scores differ from those computed in float64 by {error:.1e} nats; allowed: {tolerance:.1e}{lens}"
        return (OK if error <= tolerance else FAILED), text

    def _decode_plainly_again(self) -> tuple[str, str]:
        """Check that DoLa left nothing on the model."""
        left = [mark for mark, count in _marks(self._found().lm).items() if count != self.marks[mark]]
        if left:
            return FAILED, f"DoLa left {' and '.join(left)} on the model"
        tokens, logits = self._two_tokens(self.model.generate), self._forward()[0]
        difference = float((logits - self.logits)[self.logits.isfinite()].abs().max())
        if tokens != self.tokens:
            return (
                FAILED,
                f"without DoLa the model now generates {self.tokenizer.decode(tokens)!r}; logits changed by {difference:.1e}",
            )
        if difference:
            return (
                WARNING,
                f"the same two tokens, but the logits changed by {difference:.1e}: this model is not deterministic here",
            )
        return OK, "without DoLa the model gives the same tokens and logits as before"

    def _time(self) -> tuple[str, str]:
        ways: dict[bool, list[float]] = {False: [], True: []}
        runs = TIMED_RUNS
        for turn in range(TIMED_RUNS):
            for with_dola, seconds in ways.items():
                seconds.append(self._seconds(with_dola))
            if turn == 0 and sum(map(sum, ways.values())) > PATIENCE:  # a large model on a slow machine
                runs = 1
                break
        plain, dola = (1000 * median(seconds) / TIMED_TOKENS for seconds in ways.values())
        self.timings = timings = Timings(plain, dola, TIMED_TOKENS, runs)
        how = f"{f'median of {runs} runs' if runs > 1 else 'one run'} of {TIMED_TOKENS} tokens, prompt included"
        return OK, f"{plain:,.1f} ms per token without DoLa, {dola:,.1f} ms with it: {timings.ratio:.2f} times as long ({how})"

    def _seconds(self, with_dola: bool) -> float:
        with attach(self.model, self.config) if with_dola else nullcontext():
            start = time.perf_counter()
            self._decode(self.model.generate, TIMED_TOKENS)  # returns tokens as a list, which waits for a GPU
            return time.perf_counter() - start

    def _found(self) -> Anatomy:
        return cast("Anatomy", self.anatomy)  # if it is None, the first check failed and no other runs

    def _two_tokens(self, decode: Callable[..., Any]) -> list[int]:
        return self._decode(decode, 2)

    def _decode(self, decode: Callable[..., Any], count: int) -> list[int]:
        call = {
            "do_sample": False,
            "max_new_tokens": count,
            "min_new_tokens": count,
            "repetition_penalty": RECOMMENDED_PENALTY,
            "stop_strings": None,
        }
        made = generate_as_asked(self.model, self.tokenizer, self.inputs, call, generate=decode, report=False)
        return made.rows[0]

    @torch.no_grad()
    def _forward(self) -> tuple[Tensor, Tensor, tuple[Tensor, ...] | None]:
        """At the prompt's last position: logits [1, V], the last block's output [1, d], and all hidden states."""
        kept: list[Tensor] = []

        def keep(module: Any, args: Any, output: Any) -> None:
            kept.append(self._found().residual(output)[0, -1:])

        handle = self._found().blocks[-1].register_forward_hook(keep)
        try:
            output = self.model(**self.inputs, output_hidden_states=True, return_dict=True)
        finally:
            handle.remove()
        return output.logits[0, -1:], kept[-1], getattr(output, "hidden_states", None)


def contrast_error(scores: Tensor, mature: Tensor, premature: Tensor, config: DoLaConfig, slack: float) -> float:
    """Largest difference between scores [V] and the contrast of mature [V] with premature logits [K, V], in nats.

    Where rounding decides, either decision is right. So tokens within `slack` of the edge of the plausible set are left out,
    and among the layers whose divergence is within `slack` of the largest, the one that fits best counts. A distribution
    changes with each token of the set, so there both edges are tried.
    """
    log_p = log_probs(mature)
    margin = log_p - threshold(log_p.max(), config.relative_top)
    clear = mature.isfinite() & ((margin.abs() > slack) | (log_p == log_p.max()))
    divergences = DIVERGENCES[config.divergence](log_p, log_probs(premature), WHOLE)
    tops = [config.relative_top]
    if config.scores == "distribution":
        tops += [min(1.0, config.relative_top * math.exp(by)) for by in (-slack, slack)]
    expected = [
        contrast(mature, layer[None], relative_top=top, strength=config.strength, scores=config.scores)
        for layer, divergence in zip(premature, divergences, strict=True)
        if divergence >= divergences.max() - slack
        for top in tops
    ]
    return min(float((scores - one)[clear].abs().max()) for one in expected)


def method_error(scores: Tensor, mature: Tensor, premature: Tensor, config: MethodConfig) -> float:
    """Largest difference between scores [V] and those that the method computes from mature [V] and premature logits [K, V]."""
    read = Reading(torch.cat([mature[None], premature])[:, None])
    expected = method_of(config).scores(mature[None], Read(Readout(None, None, torch.nn.Identity()), config, read))[0]
    return float((scores - expected)[mature.isfinite()].abs().max())


def _marks(lm: Any) -> dict[str, int]:
    """The things that DoLa adds to a model while attached, and how many of each are there now."""
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.modules())
    replaced = {name: int(name in lm.__dict__) for name in ("dola", "generate", "_get_logits_processor")}
    return {"hooks": hooks, **replaced}


def _outcome(name: str, check: Callable[[], tuple[str, str]], described: type[Exception] | tuple[()] = ()) -> Check:
    """Run a check. Errors of the classes in `described` concern the model and fail the check; other LayersErrors are raised."""
    try:
        return Check(name, *check())
    except Exception as error:
        if isinstance(error, LayersError) and not isinstance(error, described):
            raise
        return Check(name, FAILED, f"{type(error).__name__}: {getattr(error, 'message', error)}")
