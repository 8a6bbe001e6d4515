"""`--backend mlx`: models of mlx-lm."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from dola.cli.backends import Backend
from dola.cli.decoding import Batch, Completion, Decoding
from dola.cli.endings import importing
from dola.cli.output import loading, printable, quiet_libraries, say
from dola.errors import ModelError, UsageError
from dola.loading.embedded import EMBEDDED, as_folder
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import parse, spelled
from dola.model.generation_fields import FIELDS, Review, differences, end_tokens, review, shown
from dola.text.encoding import Encoder

if TYPE_CHECKING:
    from dola.cli.options import DType
    from dola.tracing.data import LayerTrace

_DONE = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache")
"""Fields of a generation config that the kept ones name and that are done here as well."""

_CACHES = (
    "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile", "prefill_chunk_size"
)  # fmt: skip
"""Fields that say how transformers runs the forward; MLX has ways of its own, and the tokens are the same."""


class MLXBackend(Backend):
    """A model of mlx-lm: see `Backend`.

    Args:
        model: The model, as `dola.mlx.load` returns it.
        tokenizer: Its tokenizer, in mlx-lm's wrapper.
        own: The fields of its generation_config.json.
    """

    name = "mlx"

    def __init__(self, model: Any, tokenizer: Any, own: Mapping[str, Any]) -> None:
        import mlx.core as mx

        from dola.mlx.parts import dtype_of, find, window_of

        self.model, self.wrapper, self.tokenizer = model, tokenizer, getattr(tokenizer, "_tokenizer", tokenizer)
        self.parts = find(model)
        self._own = own
        self._ends = frozenset({*tokenizer.eos_token_ids, *_ends(own)})
        rows = None if self.parts.embedding is None else int(self.parts.embedding["weight"].shape[0])
        self.encoder, self.window = Encoder(self.tokenizer, rows, self._ends), window_of(model)
        self.dtype = str(dtype_of(model)).removeprefix("mlx.core.")
        self.device = "gpu" if mx.default_device() == mx.gpu else "cpu"
        self._review = _reviewed(own)
        self._is_said = False

    def uses_chat(self, chat: bool | None) -> bool:
        """See `Backend`. A template that is code of mlx-lm is not used, and that is an error unless it is asked for."""
        if getattr(self.wrapper, "_chat_template", None) is not None and chat is not False:
            raise UsageError("This model's chat template is code of mlx-lm, which this command does not run.", hint="--no-chat")
        return super().uses_chat(chat)

    def settle_layers(self, config: MethodConfig | None, given: str | None) -> tuple[MethodConfig | None, str]:
        """See `Backend`."""
        own = self._own.get("dola_layers")
        if config is not None and not isinstance(config, DoLaConfig):
            return config, spelled(config.layers)
        if given is not None or own is None or config is None:
            named = "high" if given is None else given
            if own is not None and spelled(own) != named:
                say(f"{shown('dola_layers', own)} of the model's generation config is not used: --layers {named} was given.")
            return config, named
        settled = dataclasses.replace(config, layers=parse(own) if isinstance(own, str) else tuple(own))
        say(f"--layers was not given: {shown('dola_layers', own)} of the model's generation config is used.")
        return settled, spelled(settled.layers)

    def config(self, chosen: Any) -> MethodConfig:
        """See `Backend`."""
        from dola.mlx.session import as_config

        config = as_config(chosen, self.parts)
        with self.attached(config):  # finds layers that the model lacks, and a lens of another model
            return config

    def attached(self, config: MethodConfig | None) -> AbstractContextManager[Any]:
        """See `Backend`."""
        from dola.mlx.session import attach
        from dola.mlx.skipping import pays

        return nullcontext() if config is None else attach(self.model, config, lazy=pays(self.model))

    def decode(self, rows: Sequence[list[int]], decoding: Decoding, *, stream: bool = False) -> Batch:
        """See `Backend`."""
        import mlx.core as mx

        from dola.mlx.completions import complete, penalty, sampler

        self._say(decoding)
        if decoding.seed is not None:
            mx.random.seed(decoding.seed)
        start = time.perf_counter()
        made = complete(
            self.model,
            rows,
            max_tokens=decoding.max_new_tokens,
            ends=self._ends,
            sampler=sampler(decoding.temperature, decoding.top_p) if decoding.sample else None,
            processors=penalty(decoding.repetition_penalty),
            on_token=self._printer() if stream else None,
        )
        seconds = time.perf_counter() - start
        if stream:
            print()
        completions = [
            Completion(
                self.tokenizer.decode(new, skip_special_tokens=True),
                new,
                "stop" if new and new[-1] in self._ends else "length",
                len(row),
            )
            for row, new in zip(rows, made, strict=True)
        ]
        return Batch(completions, seconds)

    def trace(
        self, row: list[int], config: MethodConfig, *, generate: int, decode: str, repetition_penalty: float, top_k: int
    ) -> LayerTrace:
        """See `Backend`."""
        from dola.tracing.mlx_reader import trace

        new: list[int] | None = None
        if generate:
            with self.attached(config if decode == "dola" else None):
                (made,) = self.decode([row], Decoding(generate, repetition_penalty)).completions
            new = made.token_ids
        penalty = repetition_penalty if generate else None
        mode = decode if generate else "prompt"
        return trace(self.model, self.tokenizer, row, config, new, mode=mode, repetition_penalty=penalty, top_k=top_k)

    def _say(self, decoding: Decoding) -> None:
        """Report once the fields of the generation config that are not used."""
        if self._is_said:
            return
        self._is_said = True
        found = self._review
        for line in differences(dataclasses.replace(found, unknown={}), decoding.arguments()):
            say(line)
        if unused := {**{name: value for name, value in found.kept.items() if name in _CACHES}, **found.unknown}:
            listed = ", ".join(shown(name, value) for name, value in unused.items())
            say(f"Not used from the model's generation config, because it is not for MLX: {listed}.")

    def _printer(self) -> Callable[[int], None]:
        """Prints the text of tokens as they come, each character once it is whole, without special tokens."""
        tokens: list[int] = []
        shown = ""

        def put(token: int) -> None:
            nonlocal shown
            tokens.append(token)
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            if not text.endswith("\ufffd") or token in self._ends:
                print(printable(text[len(shown) :]), end="", flush=True)
                shown = text

        return put


def load(name: str, *, dtype: DType | None, device: str | None, trust_remote_code: bool) -> MLXBackend:
    """Load a model with mlx-lm.

    Raises:
        UsageError: A name that mlx-lm cannot load, or a device that MLX does not have here.
        ModelFileError: See `dola.mlx.load`.
        ModelError: DoLa cannot be used with this architecture, or the generation config asks for what MLX does not do.
        MissingExtraError: MLX or mlx-lm is not installed.
    """
    from dola.mlx.need import check

    check()
    check_name(name)
    with loading(name):
        with importing():
            quiet_libraries()
            import mlx.core as mx

            from dola.mlx.loading import load as load_mlx
            from dola.mlx.loading import own_generation
        _set_device(mx, device)
        trust: dict[str, Any] = {"trust_remote_code": True} if trust_remote_code else {}
        model, tokenizer = load_mlx(name, **trust, **({"tokenizer_config": trust} if trust else {}))
        if dtype is not None:
            model.set_dtype(getattr(mx, dtype.value))
        return MLXBackend(model, tokenizer, own_generation(name))


def check_name(name: str, *, then: str = "") -> None:
    """Refuse the name of a GGUF file. `then` is the command that reads a folder, for the hint.

    Raises:
        UsageError: It is one.
    """
    if name not in EMBEDDED and not name.endswith(".gguf"):
        return
    command, folder = as_folder(name)
    raise UsageError(
        f"{name!r} is a GGUF file, which mlx-lm does not read; it reads folders with safetensors and hub ids.",
        hint=f"{then or '--model'} mlx-community/SmolLM2-135M-Instruct, or make a folder: {command}, "
        f"then {then or '--model'} ./{folder}",
    )


def _set_device(mx: Any, device: str | None) -> None:
    there = ["gpu", "cpu"] if mx.is_available(mx.gpu) else ["cpu"]
    if device in (None, "auto"):
        return
    if device not in there:
        raise UsageError(
            f"MLX has no device {device!r} on this machine. Available: {', '.join(there)}, auto.", hint="omit --device"
        )
    mx.set_default_device(getattr(mx, str(device)))


def _ends(own: Mapping[str, Any]) -> set[int]:
    class Fields:
        eos_token_id = own.get("eos_token_id")

    try:
        return end_tokens(Fields)
    except TypeError as error:
        raise ModelError(
            f"{error} in the model's generation config.",
            hint="correct eos_token_id in generation_config.json in the model's folder",
        ) from None


def _reviewed(own: Mapping[str, Any]) -> Review:
    """What becomes of each field of the generation config.

    Raises:
        ModelError: It asks for what is not done with MLX.
    """
    found = review(own)
    kept = {name: value for name, value in found.kept.items() if name not in (*_DONE, *_CACHES)}
    if undone := {**found.refused, **kept}:
        name, value = next(iter(undone.items()))
        known = FIELDS.get(name)
        raise ModelError(
            f"The model's generation config sets {shown(name, value)}, which is not done with MLX"
            f"{f': {known.why}' if known is not None and known.why else ''}.",
            hint=f"--backend torch, or remove {name} from generation_config.json in the model's folder",
        )
    return found
