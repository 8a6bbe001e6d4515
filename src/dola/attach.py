"""The one mechanism: hooks that make a model's own forward return contrastive logits.

A forward of an attached model goes
    open (pre-hook of the causal LM)   reads which positions are asked for
    -> capture (pre-hooks of the candidate blocks)   keeps these positions of the residual stream
    -> close (hook of the causal LM)   reads them out, contrasts, and puts the result where the logits were.
So everything that reads logits works unchanged: greedy, sampling, beams, caches, streaming, pipelines.

What a forward captures belongs to that forward: it lives in the thread that runs it, never on a module.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import modeling_utils

from dola.anatomy import Anatomy
from dola.config import DoLaConfig
from dola.contrast import contrast, plausible
from dola.errors import AttachError, CaptureError, InputError
from dola.generation import Generation, GenerationDoor
from dola.layers import candidate_layers, check_indices

CHUNK_ELEMENTS = 2**24
"""Premature logits are made for so many rows at a time that K * rows * V stays below this: 64 MiB in float32. The contrast
needs about six buffers of that size at its peak, whatever the batch and the prompt are (one row is the least)."""


def attach(model: Any, config: DoLaConfig | str | Sequence[int] = "high", *, anatomy: Anatomy | None = None) -> Attachment:
    """Make `model` decode with DoLa until the returned attachment is removed.

    Every forward then returns the contrast in place of its logits, for every thread that uses the model; `generate` is
    wrapped so that a row whose plausible tokens are all banned (grammars, bad words) is decided by the mature scores.

        with dola.attach(model, "high"):
            out = model.generate(**inputs, repetition_penalty=1.2)

    Args:
        model: Any decoder-only Hugging Face model with a language-modelling head, in eval mode.
        config: A DoLaConfig, or just its `layers`: "high", "low", "all", or indices (0 is the embedding output).
        anatomy: The parts of a model in which they are not found by themselves.

    Returns:
        The attachment: a context manager with `.remove()`, also at hand as `model.dola`.

    Raises:
        AttachError: DoLa is attached to this model already.
        ModelError: The model has no decoder blocks or no head, or is an encoder-decoder.
        LayersError: Layers that this model does not have.
    """
    anatomy = Anatomy.of(model) if anatomy is None else anatomy
    if not isinstance(config, DoLaConfig):
        if not isinstance(config, str):
            config = check_indices(config, anatomy.num_layers)  # before DoLaConfig does it without knowing the depth
        config = DoLaConfig(config)
    return Attachment(anatomy, config)


@dataclass
class Call:
    """One forward: which positions it was asked for, and what was captured at them."""

    keep: int | Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)


class _ThreadState(threading.local):
    """What the current thread is doing with the model."""

    call: Call | None = None


class Attachment:
    """DoLa, attached to a model. Made by `attach`.

    Attributes:
        config: The configuration in use.
        layers: The candidate premature layers it means for this model, in Hugging Face's numbering.
        anatomy: The parts of the model.
        rows: How many positions were contrasted so far.
        rows_saved: How many of them needed no premature readout, because a single token was plausible (`config.lazy`).
    """

    def __init__(self, anatomy: Anatomy, config: DoLaConfig) -> None:
        self.anatomy, self.config = anatomy, config
        self.layers = candidate_layers(config.layers, anatomy.num_layers, tied=anatomy.tied)
        self.rows = self.rows_saved = 0
        self._lm = anatomy.lm
        self._keep = _LogitsToKeep(anatomy.lm.forward)
        self._state = _ThreadState()
        self._readout_checked = False
        if (other := getattr(self._lm, "dola", None)) is not None:
            raise AttachError(
                f"{type(self._lm).__name__} has DoLa attached already: {other!r}.",
                hint="call model.dola.remove() first",
            )
        self._door = GenerationDoor(self._lm, config.relative_top)
        blocks = anatomy.blocks
        self._handles = [
            self._lm.register_forward_pre_hook(self._open, with_kwargs=True),
            self._lm.register_forward_hook(self._close, with_kwargs=True, always_call=True),
            blocks[-1].register_forward_hook(self._capture_last),
            *(blocks[j].register_forward_pre_hook(self._capturer(j), with_kwargs=True) for j in self.layers),
        ]
        self._lm.dola = self

    def remove(self) -> None:
        """Give the model back as it was. Calling it again does nothing."""
        if self._lm.__dict__.get("dola") is not self:
            return
        for handle in self._handles:
            handle.remove()
        self._door.close()
        del self._lm.dola

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return f"<dola on {type(self._lm).__name__}: layers {layers} of {self.anatomy.num_layers}, {self.config}>"

    def _open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the forward: refuse what has no meaning, and note the positions asked for."""
        if kwargs.get("labels") is not None:
            raise InputError(
                "labels= was given: DoLa's scores are not a likelihood to train on, so there is no loss.",
                hint="call the model without labels=, or remove DoLa first: model.dola.remove()",
            )
        if module.training:
            raise InputError("The model is in training mode; DoLa decodes with dropout off.", hint="call model.eval()")
        inputs = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(inputs, Tensor) and inputs.shape[-1] == 0:
            raise InputError(
                f"The input has no tokens (shape {list(inputs.shape)}); at least one is needed.", hint="give a prompt"
            )
        self._state.call = Call(self._keep.of(args, kwargs))

    def _capturer(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def capture(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep_hidden(layer, args[0] if args else kwargs["hidden_states"])

        return capture

    def _capture_last(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._readout_checked:
            self._keep_hidden(self.anatomy.num_layers, output[0] if isinstance(output, tuple) else output)

    def _keep_hidden(self, layer: int, hidden: Tensor) -> None:
        if (call := self._state.call) is None:
            raise CaptureError(
                f"Layer {layer} of {type(self._lm).__name__} ran outside a call of the model, so its logits would be plain.",
                hint="call model(...), not model.forward(...) or an inner module, or remove DoLa first",
            )
        # A copy: a view would keep the whole prompt's states alive, and some blocks add to their input in place.
        call.hidden[layer] = select_positions(hidden.detach(), call.keep).clone()

    @torch.no_grad()
    def _close(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After the forward: contrast, and put the scores where the logits were."""
        call, self._state.call = self._state.call, None
        if output is None or call is None:  # the forward, or the hook before it, raised
            return None
        logits = (output[0] if isinstance(output, tuple) else output.logits).detach()
        self._check_captures(call, logits)
        generation = self._door.current
        scores = self._contrast(call, logits, generation)
        if not scores.amax(dim=-1).isfinite().all():
            self._explain_not_finite(call, logits, scores, kwargs.get("attention_mask"))
        if generation is not None:
            generation.record(scores=scores, mature=logits)
        if isinstance(output, tuple):
            return (scores, *output[1:])
        output.logits = scores
        return output

    def _check_captures(self, call: Call, logits: Tensor) -> None:
        for layer in self.layers:
            got = list(call.hidden[layer].shape[:-1]) if layer in call.hidden else None
            if got != list(logits.shape[:-1]):
                what = "did not run" if got is None else f"left positions of shape {got}"
                raise CaptureError(
                    f"Layer {layer} {what} in a forward that returned logits of shape {list(logits.shape)}.",
                    hint="modes that run fewer blocks cannot be contrasted; if this was no such mode, please report the model",
                )
        if not self._readout_checked:
            last = call.hidden.pop(self.anatomy.num_layers)
            self.anatomy.check_readout(last.flatten(0, -2)[-1:], logits.flatten(0, -2)[-1:])
            self._readout_checked = True

    def _contrast(self, call: Call, logits: Tensor, generation: Generation | None) -> Tensor:
        """Scores for all rows of a forward: [..., V], float32 or better."""
        mature = logits.flatten(0, -2)
        hidden = [call.hidden[layer].flatten(0, -2).to(logits.device) for layer in self.layers]
        settings = {"relative_top": self.config.relative_top, "divergence": self.config.divergence}
        undecided = torch.arange(len(mature), device=mature.device)
        scores = mature.new_empty(mature.shape, dtype=torch.promote_types(mature.dtype, torch.float32))
        if self.config.lazy and generation is not None and generation.lazy:
            several = plausible(mature, self.config.relative_top).sum(dim=-1) > 1
            decided, undecided = (~several).nonzero()[:, 0], several.nonzero()[:, 0]
            # With one plausible token no premature layer can change the choice: contrasted with itself, it stays on top.
            scores[decided] = contrast(mature[decided], mature[decided][None], **settings)  # type: ignore[arg-type]
            self.rows_saved += len(decided)
        self.rows += len(mature)
        size = max(1, CHUNK_ELEMENTS // (len(hidden) * mature.shape[-1]))
        for rows in torch.split(undecided, size):
            premature = self.anatomy.readout(
                torch.stack([layer[rows] for layer in hidden]),
                final_norm=self.config.final_norm,
                logit_transform=not self.config.raw_head,
            )
            scores[rows] = contrast(mature[rows], premature.to(mature.device), **settings)  # type: ignore[arg-type]
        return scores.view(logits.shape)

    def _explain_not_finite(self, call: Call, logits: Tensor, scores: Tensor, attention_mask: Any) -> None:
        """Raise for positions without a usable distribution. Padding has none in some models, and nobody reads it."""
        broken = ~scores.amax(dim=-1).isfinite()
        if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2:
            real = select_positions(attention_mask[..., None], call.keep)[..., 0].bool()
            if real.shape == broken.shape:
                broken = broken & real.to(broken.device)
        if not broken.any():
            return
        where = broken.nonzero()[0].tolist()
        row = logits[broken][0]
        if row.isnan().any() or not row.amax().isfinite():
            what = "are NaN, infinite or all -inf"
        else:
            what = "are finite, but those of a candidate layer are not"
        raise InputError(
            f"The model's logits {what} at position {where} ([batch, position] of the logits), so they define no distribution.",
            hint="look for overflow (float16?), a broken checkpoint, or an attention mask that hides everything",
        )


class _LogitsToKeep:
    """Reads `logits_to_keep` from a call of one model's forward: 0 (all) where the model has no such argument."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        parameters = inspect.signature(forward).parameters
        parameter = parameters.get("logits_to_keep")
        self.index = list(parameters).index("logits_to_keep") if parameter is not None else None
        self.default = parameter.default if parameter is not None else 0

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | Tensor:
        if self.index is None:
            return 0
        keep = args[self.index] if len(args) > self.index else kwargs.get("logits_to_keep", self.default)
        return 0 if keep is None or keep is inspect.Parameter.empty else keep


def select_positions(hidden: Tensor, keep: int | Tensor) -> Tensor:
    """The positions of `hidden` [B, T, d] that a forward with `logits_to_keep=keep` returns logits for.

    The last n (0 is all), or what transformers makes of a tensor: 1-D indices and, in its later versions, per-row indices
    [B, n] or a mask [B, T].
    """
    if not isinstance(keep, Tensor):
        return hidden[:, -keep:] if keep else hidden
    slice_as_transformers = getattr(modeling_utils, "slice_logits_to_keep", lambda states, index: states[:, index])
    selected: Tensor = slice_as_transformers(hidden, keep.to(hidden.device))
    return selected
