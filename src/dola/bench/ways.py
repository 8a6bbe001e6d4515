"""The ways of decoding that are compared, and one timed run of one of them.

A call's time is split by a stopping criterion that never stops: it sees the clock after every step. So the prompt and the
tokens after it are told apart within one call, with nothing subtracted, and both sides carry the same criterion.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from dola import Anatomy, DoLaConfig, attach
from dola.bench.baseline import decode_as_before
from dola.errors import ConfigError
from dola.methods.config import MethodConfig
from dola.methods.names import RECOMMENDED_PENALTY

CACHES = ("dynamic", "static")


@dataclass(frozen=True)
class Settings:
    """What all ways have in common.

    Attributes:
        dola: The settings of DoLa, or of another method. The old code takes its layers and nothing else from it.
        new_tokens: Tokens that each generation makes; no token ends it.
        repeats: Timed runs of each way.
        cache: "dynamic" or "static".
        compile: Whether `generate` compiles its decoding steps; needs the static cache.
        prompt_lookup: Tokens drafted at a time from the prompt itself, or 0 for no such runs. Batch size 1 only.
        repetition_penalty: On all sides. The published method uses RECOMMENDED_PENALTY.
        old: Whether the old code is timed too.
        memory: Whether peak memory is measured too.
    """

    dola: MethodConfig = field(default_factory=DoLaConfig)
    new_tokens: int = 64
    repeats: int = 5
    cache: str = "dynamic"
    compile: bool = False
    prompt_lookup: int = 0
    repetition_penalty: float = 1.0
    old: bool = True
    memory: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, for JSON."""
        return asdict(self) | {"dola": self.dola.as_dict()}

    def __post_init__(self) -> None:
        for name, least in (("new_tokens", 2), ("repeats", 1), ("prompt_lookup", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is too few; at least {least} is needed.", hint=f"use {name}={least} or more"
                )
        if self.cache not in CACHES:
            raise ConfigError(
                f"cache={self.cache!r} is unknown; allowed are {', '.join(CACHES)}.", hint="use dynamic or static"
            )
        if not self.repetition_penalty > 0:
            raise ConfigError(
                f"repetition_penalty={self.repetition_penalty} is not above 0; 1.0 is none.",
                hint=f"use 1.0 or {RECOMMENDED_PENALTY}",
            )
        if self.compile and self.cache != "static":
            raise ConfigError(
                "compile with a dynamic cache: generate compiles only with a static one.", hint="use --cache static"
            )
        if self.prompt_lookup and self.cache == "static":
            raise ConfigError(
                "prompt_lookup with a static cache: drafts that are refused must be taken out of the cache, which a static one "
                "does not allow.",
                hint="use --cache dynamic",
            )

    def ways(self) -> tuple[Way, ...]:
        """The ways that are asked for, greedy first."""
        ways = [Way("greedy"), Way("dola", dola=True)]
        if self.old:
            ways.append(Way("old", old=True))
        if self.prompt_lookup:
            ways += [Way("greedy+lookup", lookup=True), Way("dola+lookup", dola=True, lookup=True)]
        return tuple(ways)


@dataclass(frozen=True)
class Way:
    """One way of decoding: plain, with DoLa, or as the old code did; with drafts from the prompt or without."""

    name: str
    dola: bool = False
    lookup: bool = False
    old: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """One timed generation.

    Attributes:
        tokens: The new tokens, [B, n], on the CPU.
        first_token_s: Until the end of the first step.
        token_s: Per token after that.
        total_s: The whole call.
        steps: Steps of the decoding loop, one forward each.
    """

    tokens: Tensor
    first_token_s: float
    token_s: float
    total_s: float
    steps: int


class Clock(StoppingCriteria):  # type: ignore[misc]
    """Notes when the first step of a generation ended, and at how many tokens. Never stops."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.steps = self.first_length = 0
        self.first = 0.0

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> Tensor:
        """Called after each step with all tokens so far, [B, T + n]; returns that no row is done."""
        self.steps += 1
        if self.steps == 1:
            synchronize(self._device)
            self.first, self.first_length = time.perf_counter(), input_ids.shape[1]
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Bench:
    """A model that is decoded with in several ways. Its generation config is put aside while it is used as `with Bench(...)`.

    Nothing but the length ends a generation: an end-of-sequence token would cut one side short and not the other, and a ban
    on it would be one more logits processor.
    """

    def __init__(self, model: Any, settings: Settings) -> None:
        self.anatomy = Anatomy.of(model)
        self.model, self.settings = model, settings
        self.device = torch.device(model.device)
        self.layers = self.anatomy.candidates(settings.dola.layers)
        self._own_config: Any = None

    def __enter__(self) -> Bench:
        lm = self.anatomy.lm
        # An end that no model reaches, rather than none: prompt lookup of transformers 5.0 cannot do without.
        never = lm.config.get_text_config().vocab_size
        self._own_config, lm.generation_config = lm.generation_config, GenerationConfig(pad_token_id=0, eos_token_id=never)
        return self

    def __exit__(self, *_: object) -> None:
        self.anatomy.lm.generation_config = self._own_config

    @contextmanager
    def made_ready(self, way: Way) -> Iterator[None]:
        """The model as `way` needs it: with DoLa on it or not."""
        with ExitStack() as stack:
            if way.dola:
                stack.enter_context(attach(self.model, self.settings.dola))
            yield

    def run(self, way: Way, prompts: Tensor, new_tokens: int | None = None) -> Run:
        """One timed generation for prompts [B, T] of equal length; the model has been made ready."""
        count = new_tokens or self.settings.new_tokens
        prompts = prompts.to(self.device)
        clock = Clock(self.device)
        synchronize(self.device)
        start = time.perf_counter()
        output = self._decode(way, prompts, count, clock)
        synchronize(self.device)
        end = time.perf_counter()
        behind_first = output.shape[1] - clock.first_length
        return Run(
            tokens=output[:, prompts.shape[1] :].cpu(),
            first_token_s=clock.first - start,
            token_s=(end - clock.first) / max(behind_first, 1),
            total_s=end - start,
            steps=clock.steps,
        )

    def settle(self, way: Way, prompts: Tensor) -> None:
        """Two tokens untimed, to pay for what an attachment or a change of way costs once; and no garbage for the next run."""
        self.run(way, prompts[:, :8], 2)
        gc.collect()

    def _decode(self, way: Way, prompts: Tensor, new_tokens: int, clock: Clock) -> Tensor:
        penalty = self.settings.repetition_penalty
        if way.old:
            return decode_as_before(
                self.anatomy.lm,
                prompts,
                self.layers,
                max_new_tokens=new_tokens,
                repetition_penalty=penalty,
                after_step=clock,
            )
        output: Tensor = self.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            max_new_tokens=new_tokens,
            repetition_penalty=penalty,
            stopping_criteria=StoppingCriteriaList([clock]),
            **self._mode(way),
        )
        return output

    def _mode(self, way: Way) -> dict[str, Any]:
        """The arguments of `generate` that say how it caches, compiles and drafts."""
        mode: dict[str, Any] = {}
        if self.settings.cache == "static":
            mode["cache_implementation"] = "static"
        if not self.settings.compile:
            mode["disable_compile"] = True
        elif self.device.type == "cpu":  # where generate compiles only when it is told so
            mode["compile_config"] = CompileConfig()
            mode["compile_config"]._compile_all_devices = True
        if way.lookup:
            mode["prompt_lookup_num_tokens"] = self.settings.prompt_lookup
        return mode


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
