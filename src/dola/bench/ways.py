"""The ways of decoding that are compared, and one timed run of one of them.

A stopping criterion that never stops reads the clock after every step. So one call gives separate times for the prompt and for
the tokens after it, without subtraction, and all ways carry the same criterion.
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
    """The settings that all ways share.

    Attributes:
        dola: The settings of DoLa or of another method. The old code uses only its layers.
        new_tokens: Tokens of each generation; no token ends it.
        repeats: Timed runs of each way.
        cache: "dynamic" or "static".
        compile: Whether `generate` compiles its decoding steps; needs the static cache.
        prompt_lookup: Tokens drafted at a time from the prompt itself; 0 means no such runs. Batch size 1 only.
        repetition_penalty: Repetition penalty of all ways. The published method uses RECOMMENDED_PENALTY.
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
                    f"{name}={getattr(self, name)} is too few; the minimum is {least}.", hint=f"use {name}={least} or more"
                )
        if self.cache not in CACHES:
            raise ConfigError(
                f"cache={self.cache!r} is not supported. Allowed: {', '.join(CACHES)}.", hint="use dynamic or static"
            )
        if not self.repetition_penalty > 0:
            raise ConfigError(
                f"repetition_penalty={self.repetition_penalty} is not above 0; 1.0 means no penalty.",
                hint=f"use 1.0 or {RECOMMENDED_PENALTY}",
            )
        if self.compile and self.cache != "static":
            raise ConfigError(
                "compile does not work with a dynamic cache: generate compiles only with a static one.",
                hint="use --cache static",
            )
        if self.prompt_lookup and self.cache == "static":
            raise ConfigError(
                "prompt_lookup does not work with a static cache: rejected drafts must be removed from the cache, which a "
                "static one does not allow.",
                hint="use --cache dynamic",
            )

    def ways(self) -> tuple[Way, ...]:
        """The requested ways, greedy first and, in turns, once more last: its ratio to the first shows the machine's noise."""
        ways = [Way("greedy"), Way("dola", dola=True)]
        if self.old:
            ways.append(Way("old", old=True))
        if self.prompt_lookup:
            ways += [Way("greedy+lookup", lookup=True), Way("dola+lookup", dola=True, lookup=True)]
        if not self.compile:  # blocks of compiled runs are not in turns, so they would show no noise
            ways.append(Way("greedy again", again=True))
        return tuple(ways)


@dataclass(frozen=True)
class Way:
    """One way of decoding: plain, with DoLa, or as the old code did; with drafts from the prompt or without.

    `again` marks a second plain one, for the noise.
    """

    name: str
    dola: bool = False
    lookup: bool = False
    old: bool = False
    again: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """One timed generation.

    Attributes:
        tokens: The new tokens, [B, n], on the CPU.
        first_token_s: Seconds until the end of the first step.
        token_s: Seconds per token after that.
        total_s: Seconds of the whole call.
        steps: Steps of the decoding loop, one forward pass each.
    """

    tokens: Tensor
    first_token_s: float
    token_s: float
    total_s: float
    steps: int


class Clock(StoppingCriteria):  # type: ignore[misc]
    """Records when the first step of a generation ended, and with how many tokens. Never stops a generation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.steps = self.first_length = 0
        self.first = 0.0

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> Tensor:
        """Record the time of a step, given all tokens so far, [B, T + n]; returns that no row is done."""
        self.steps += 1
        if self.steps == 1:
            synchronize(self._device)
            self.first, self.first_length = time.perf_counter(), input_ids.shape[1]
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Bench:
    """A model that decodes in several ways. Inside `with Bench(...)` its generation config is set aside.

    Only the length ends a generation: an end-of-sequence token would stop one way and not the other, and banning it would
    take another logits processor.
    """

    def __init__(self, model: Any, settings: Settings) -> None:
        self.anatomy = Anatomy.of(model)
        self.model, self.settings = model, settings
        self.device = torch.device(model.device)
        self.layers = self.anatomy.candidates(settings.dola.layers)
        self._own_config: Any = None

    def __enter__(self) -> Bench:
        lm = self.anatomy.lm
        # An end token that no model generates: prompt lookup in transformers 5.0 does not work without one.
        never = lm.config.get_text_config().vocab_size
        self._own_config, lm.generation_config = lm.generation_config, GenerationConfig(pad_token_id=0, eos_token_id=never)
        return self

    def __exit__(self, *_: object) -> None:
        self.anatomy.lm.generation_config = self._own_config

    @contextmanager
    def made_ready(self, way: Way) -> Iterator[None]:
        """Attach DoLa to the model inside, if `way` needs it."""
        with ExitStack() as stack:
            if way.dola:
                stack.enter_context(attach(self.model, self.settings.dola))
            yield

    def run(self, way: Way, prompts: Tensor, new_tokens: int | None = None) -> Run:
        """Time one generation for prompts [B, T] of equal length, inside `made_ready`."""
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
        """Decode two tokens untimed, to absorb the one-time costs of a change of way, and collect garbage."""
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
        """The arguments of `generate` for its cache, compilation and drafts."""
        mode: dict[str, Any] = {}
        if self.settings.cache == "static":
            mode["cache_implementation"] = "static"
        if not self.settings.compile:
            mode["disable_compile"] = True
        elif self.device.type == "cpu":  # where generate compiles only on request
            mode["compile_config"] = CompileConfig()
            mode["compile_config"]._compile_all_devices = True
        if way.lookup:
            mode["prompt_lookup_num_tokens"] = self.settings.prompt_lookup
        return mode


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
