"""Where a causal language model keeps what DoLa reads: its blocks, and the readout from residual stream to logits.

Found by structure, not by architecture name, so that a new family needs no code here. The structure that nearly all
decoders share:

    embeddings -> blocks[0] .. blocks[N-1] -> final norm -> (projection) -> head -> (soft-cap or scale) -> logits
                  |________ candidates ________|            |____________________ readout ___________________|

A wrong guess is always noticed: on the first forward the readout of the last block is compared with the model's logits.
What structure cannot tell of a model type is said in `adapters.py`, or by others: `register_anatomy`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dola import native
from dola.errors import ModelError, ReadoutError
from dola.methods.layers import candidate_layers
from dola.model.adapters import FINAL_NORMS, AltUp, register_anatomy, registered_anatomy, why_not
from dola.model.places import describe_hooks, foreign_hooks, readers_of
from dola.model.readout import Chain, Cut, Part, Readout, Scale, SoftCap
from dola.model.wrappers import causal_lm, inside, unwrap

__all__ = ["READOUT_TOLERANCE", "Anatomy", "Scale", "SoftCap", "register_anatomy", "unwrap"]

READOUT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest |readout(last block) - logits|, relative to the largest logit, that is still rounding. float32 allows for TF32."""
ROW_TOLERANCE = 0.1
"""Largest difference in a row's logits, relative to the largest one, beside a row a hundred times larger. Heads that round all
rows by one scale lose the row there; LLM.int8(), which has another product for large values, stays far below."""

MULTIPLIED_BY_MODEL = ("logit_scale",)  # Cohere: on the module. MPT has it in its config and does not use it.
MULTIPLIED = ("lm_head_multiplier",)  # Falcon H1
DIVIDED = ("logits_scaling", "logits_mup_width_multiplier")  # Granite; Inkling, in front of a head without bias
CAPPED = ("final_logit_softcapping", "output_logit_soft_cap", "logits_soft_cap")  # Gemma 2 and later, xLSTM, RecurrentGemma
CUT = ("unpadded_vocab_size",)
"""Attributes of a model and of its text config that say what its forward does to the head's output."""


@dataclass(frozen=True, eq=False, init=False, kw_only=True)
class Anatomy(Readout):
    """The parts of one model: its blocks, and the readout.

    Attributes:
        lm: The causal-LM module whose forward returns logits, without PEFT or torch.compile wrappers.
        blocks: The N transformer blocks in order. The input of `blocks[j]` is `hidden_states[j]`.
        final_norm: What the last block's output passes first, or None.
        projection: What lies between final norm and head (OPT's project_out), or None.
        head: From hidden size to vocabulary. For BERT-like models this is the whole prediction head, its dense layer included.
        logit_transform: What the model does to the head's output (soft-cap, scale), or None.
        tied: Whether the head shares the input embedding's weights.
        stream: What makes the residual stream [B, T, d] of several that blocks pass on (hyper-connections, AltUp), or
            None where they pass on the residual stream itself.
    """

    lm: Any
    blocks: tuple[nn.Module, ...]
    tied: bool = False
    stream: Part | None = None

    def __init__(  # by hand, because a dataclass puts the fields of its base first
        self,
        lm: Any,
        blocks: tuple[nn.Module, ...],
        final_norm: Part | None,
        projection: Part | None,
        head: Part,
        logit_transform: Part | None = None,
        tied: bool = False,
        stream: Part | None = None,
    ) -> None:
        super().__init__(final_norm, projection, head, logit_transform)
        vars(self).update(lm=lm, blocks=blocks, tied=tied, stream=stream)

    @property
    def num_layers(self) -> int:
        """N, the number of blocks, and the index of the mature layer."""
        return len(self.blocks)

    def candidates(self, layers: str | Iterable[object]) -> tuple[int, ...]:
        """The candidate layers that these mean in this model: see `candidate_layers`.

        Raises:
            LayersError: Layers that this model does not have.
        """
        return candidate_layers(layers, self.num_layers, tied=self.tied)

    @cached_property
    def head_share(self) -> float:
        """The LM head's share of the weights that a token passes, head and blocks: in (0, 1)."""
        head: int = sum(weight.numel() for weight in getattr(self.head, "parameters", tuple)())
        return head / (head + sum(weight.numel() for block in self.blocks for weight in block.parameters()))

    @classmethod
    def of(cls, model: Any) -> Anatomy:
        """The parts of any model that `AutoModelForCausalLM` loads, wrapped by PEFT or torch.compile or not.

        As registered for the model's type (`register_anatomy`), and else by structure.

        Raises:
            ModelError: An encoder-decoder, a model without a head, without blocks, or with fewer than two of them; a registered
                factory that fails.
        """
        lm = causal_lm(model)
        registered = registered_anatomy(lm, cls)
        return cls.by_structure(lm) if registered is None else registered

    @classmethod
    def by_structure(cls, model: Any) -> Anatomy:
        """The same without what is registered: where a factory begins that knows one part better.

        Raises:
            ModelError: As `of`.
        """
        lm: Any = causal_lm(model)
        name = type(lm).__name__
        config = getattr(lm, "config", None)
        if config is None or not hasattr(lm, "get_output_embeddings"):
            raise ModelError(f"{name} is not a Hugging Face model.", hint=_use(inside(lm)))
        text_config = config.get_text_config()
        # InstructBLIP says it in its text config alone.
        if any(getattr(part, "is_encoder_decoder", False) for part in (config, text_config)):
            raise ModelError(
                f"{name} is an encoder-decoder; DoLa contrasts the layers of a decoder-only model.",
                hint="use a causal language model, one that AutoModelForCausalLM loads",
            )
        if (reason := why_not(lm)) is not None:
            raise ModelError(f"{name} cannot be contrasted: {reason}.", hint="use a model of another architecture")
        embedding_head = lm.get_output_embeddings()
        if embedding_head is None:
            raise ModelError(f"{name} has no LM head, so its layers cannot be read out as tokens.", hint=_use(inside(lm)))
        path, blocks = _find_blocks(lm, text_config)
        if len(blocks) < 2:
            raise ModelError(
                f"{name} has {len(blocks)} layer; DoLa needs at least 2, one to contrast the last with.",
                hint="use a deeper model",
            )
        owner = lm.get_submodule(path.rpartition(".")[0])
        named = FINAL_NORMS.get(config.model_type)
        return cls(
            lm=lm,
            blocks=tuple(blocks),
            final_norm=lm.get_submodule(named) if named else _find_final_norm(lm, path, blocks),
            projection=_find_projection(lm, owner),
            head=_find_head(lm, embedding_head, blocks),
            logit_transform=_find_logit_transform(lm, text_config),
            tied=_is_tied(lm, embedding_head, config),
            stream=_find_stream(owner),
        )

    def transform_attributes(self) -> list[tuple[dict[str, Any], str]]:
        """Where the numbers are kept that the model's forward reads for its logit transform: a namespace and a name each."""
        config = self.lm.config.get_text_config()
        return [
            *((vars(self.lm), name) for name in MULTIPLIED_BY_MODEL),
            *((vars(config), name) for name in (*MULTIPLIED, *DIVIDED, *CAPPED, *CUT)),
        ]

    def residual(self, passed: Any) -> Tensor:
        """The residual stream [B, T, d] in what a block was given or has returned."""
        hidden: Tensor = passed[0] if isinstance(passed, (tuple, list)) else passed
        return hidden if self.stream is None else self.stream(hidden)

    @torch.no_grad()
    def readout_error(self, last_hidden: Tensor, logits: Tensor) -> float:
        """Largest difference between the readout of the last block's output and the model's logits, over the largest logit.

        Logits that are -inf, as models set them for unused tokens, are left out.
        """
        found, expected = self.readout(last_hidden).to(logits.device).double(), logits.double()
        used = expected.isfinite()
        difference = (found - expected)[used].abs().max().nan_to_num(torch.inf)
        return float(difference / expected[used].abs().max().clamp(min=1e-6))

    def check_readout(self, last_hidden: Tensor, logits: Tensor) -> None:
        """Raise ReadoutError where the parts found do not give the model's logits, ModelError if a row has none of its own.

        Args:
            last_hidden: The last block's output, as the candidates are read: rows [R, d], or all that a forward has [B, T, d].
            logits: The model's own, of the same leading shape.
        """
        if last_hidden.dim() == 2:
            self._check_rows(last_hidden)
        error = self.readout_error(last_hidden, logits)
        tolerance = READOUT_TOLERANCE.get(logits.dtype, 5e-2)
        if error <= tolerance:
            return
        hooks = describe_hooks(self)
        raise ReadoutError(
            f"The readout found in {type(self.lm).__name__} does not reproduce its logits: relative error {error:.2g}, "
            f"allowed {tolerance:.0e}. Found: {self.describe()}."
            + (f" Hooks of others between the last block and the logits: {hooks}." if hooks else ""),
            hint="remove a hook that changes logits or the final state, or put it on a block: blocks are read with their hooks"
            if hooks
            else "this architecture needs its parts named: dola.attach(model, ..., anatomy=dola.Anatomy(...))",
        )

    @torch.no_grad()
    def _check_rows(self, hidden: Tensor) -> None:
        """Raise ModelError where the head's logits of a row depend on the rows beside it: a layer has none of its own then.

        So it is where a head rounds all its inputs by one scale, made from the largest of them (int8 activations "per tensor"):
        beside a row that is a hundred times larger, little is left of a row. One that rounds each row by itself keeps it. And
        so it is where somebody's hook changes one of the rows that it is given.
        """
        hooked = foreign_hooks(readers_of(self))
        if native.is_plain_linear(self.head) and not hooked:
            return
        row = self.head_input(hidden).flatten(0, -2)[-1:]
        alone, beside = (self.read_head(rows)[0].double() for rows in (row, torch.cat([row, 100 * row])))
        if alone.isfinite().all() and not (alone - beside).abs().max() <= ROW_TOLERANCE * alone.abs().max():
            if hooked:
                raise ModelError(
                    f"Hooks on {type(self.lm).__name__} change a row's logits with the rows beside it: {describe_hooks(self)}.",
                    hint="remove these hooks, or put them on a block",
                )
            raise ModelError(
                f"The LM head of {type(self.lm).__name__} ({_name(self.head)}) gives a row other logits beside other rows, as "
                "heads do that round all rows by one scale: layers cannot be read out through it.",
                hint="leave the LM head out of the quantisation, or quantise its activations per token",
            )

    def describe(self) -> str:
        """The parts in one line, for errors and bug reports."""
        parts = {
            "blocks": f"{self.num_layers} x {type(self.blocks[0]).__name__}",
            "final norm": _name(self.final_norm),
            "projection": _name(self.projection),
            "head": _name(self.head),
            "logit transform": _name(self.logit_transform),
            "tied embeddings": "yes" if self.tied else "no",
        }
        if self.stream is not None:
            parts["residual stream from"] = _name(self.stream)
        return ", ".join(f"{part}: {found}" for part, found in parts.items())


def _find_blocks(lm: Any, config: Any) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks: as long as the text config says, in a part of the model that is for text, beside the input
    embeddings if possible, else the largest."""
    embeddings = lm.get_input_embeddings()
    texts = {config.model_type, lm.config.model_type}

    def rank(found: tuple[str, nn.ModuleList]) -> tuple[bool, bool, bool, int]:
        path, blocks = found
        owners = [lm.get_submodule(".".join(path.split(".")[:depth])) for depth in range(path.count(".") + 1)]
        kinds = [owner.config.model_type for owner in owners if hasattr(owner, "config")]
        beside_embeddings = any(module is embeddings for module in owners[-1].modules())
        size = sum(p.numel() for p in blocks.parameters())
        as_long = len(blocks) == getattr(config, "num_hidden_layers", None)
        return as_long, kinds[-1] in texts, beside_embeddings, size  # an image encoder has a config of its own

    lists = [(path, m) for path, m in lm.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    if not lists:
        raise ModelError(f"{type(lm).__name__} has no list of blocks, so it has no layers to contrast.", hint=_LOAD)
    return max(lists, key=rank)


def _find_final_norm(lm: nn.Module, path: str, blocks: nn.ModuleList) -> Part | None:
    """The norm beside the blocks: the last one registered after them, or one that calls itself final. Where there is none, the
    norm after the module that holds them, as RoBERTa-PreLayerNorm has it."""
    norms, after_blocks = [], False
    for name, child in lm.get_submodule(path.rpartition(".")[0]).named_children():
        if _is_norm(name, child) and (after_blocks or "final" in name):
            norms.append((name, child))
        after_blocks = after_blocks or child is blocks
    if norms:
        return next((norm for name, norm in norms if name == "norm"), norms[-1][1])  # Gemma 4 has one for its inputs after it
    above, _, holder = path.rpartition(".")[0].rpartition(".")
    around = dict(lm.get_submodule(above).named_children()) if above else {}
    after = list(around.items())[list(around).index(holder) + 1 :] if holder in around else []
    return next((child for name, child in after if "norm" in type(child).__name__.lower()), None)


def _find_projection(lm: nn.Module, owner: nn.Module) -> Part | None:
    """What lies between final norm and head: OPT's project_out, or a prediction head beside the output embedding."""
    beside = (child for child in lm.children() if type(child).__name__.endswith(("PredictionHead", "GeneratorPredictions")))
    projection: Part | None = getattr(owner, "project_out", None)
    return projection if projection is not None else next(beside, None)


def _find_stream(owner: Any) -> Part | None:
    """What makes one residual stream of the several that blocks pass on."""
    if hasattr(owner, "altup_unembed_projections"):
        return AltUp(owner.altup_unembed_projections)
    merges = ("hc_head", "hyper_connection_mixer")  # DeepSeek V4 and on, Qwen 4
    return next((getattr(owner, name) for name in merges if hasattr(owner, name)), None)


def _is_norm(name: str, module: nn.Module) -> bool:
    named = "norm" in type(module).__name__.lower() or "norm" in name or name.startswith("ln_")
    return named and name != "layernorm_embedding" and not isinstance(module, nn.ModuleList)  # which BART's decoder begins with


def _find_head(lm: nn.Module, embedding_head: nn.Module, blocks: nn.ModuleList) -> Part:
    """The output embedding, or the largest module around it that holds no block (BERT-like prediction heads)."""
    path = next((path for path, module in lm.named_modules() if module is embedding_head), "")
    names = path.split(".")
    for length in range(1, len(names)):
        around = lm.get_submodule(".".join(names[:length]))
        if not any(module is blocks for module in around.modules()):
            return around
    return embedding_head


def _find_logit_transform(lm: nn.Module, config: Any) -> Part | None:
    """What the forward of `lm` does to the head's output, by the attributes that architectures agree on."""
    steps: list[Part] = [Scale(value) for value in (*_numbers(lm, MULTIPLIED_BY_MODEL), *_numbers(config, MULTIPLIED))]
    steps += [Scale(1 / value) for value in _numbers(config, DIVIDED)]
    steps += [SoftCap(value) for value in _numbers(config, CAPPED)]
    unpadded = _numbers(config, CUT)
    if unpadded and unpadded[0] < getattr(config, "vocab_size", 0):
        steps.append(Cut(int(unpadded[0])))
    return steps[0] if len(steps) == 1 else Chain(tuple(steps)) if steps else None


def _numbers(source: Any, names: Iterable[str]) -> list[float]:
    """The attributes that are there and are numbers other than 0."""
    values = [getattr(source, name, None) for name in names]
    return [float(value) for value in values if isinstance(value, (int, float)) and value]


def _is_tied(lm: Any, head: nn.Module, config: Any) -> bool:
    """Whether head and input embedding share their weights, by the config or by the parameters themselves."""
    if getattr(config, "tie_word_embeddings", False):
        return True
    weight = getattr(lm.get_input_embeddings(), "weight", None)
    return weight is not None and weight is getattr(head, "weight", None)


def _name(part: Part | None) -> str:
    return "none" if part is None else repr(part) if isinstance(part, (SoftCap, Scale, Cut, Chain)) else type(part).__name__


def _use(found: str | None) -> str:
    return f"use {found}" if found else _LOAD


_LOAD = "load the model with AutoModelForCausalLM.from_pretrained(...)"
