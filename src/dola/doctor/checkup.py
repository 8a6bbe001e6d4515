"""Does DoLa work on this model? Its parts, the outcomes of the checks, and advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dola.doctor.checks import FAILED, Check, Examination, Timings
from dola.errors import LayersError
from dola.loading.weights import WeightsReport
from dola.methods.config import MethodConfig
from dola.methods.layers import BUCKETS
from dola.model.anatomy import Anatomy

SMALL = 10**9
"""Number of parameters below which no evidence shows that DoLa helps: the paper's smallest model has 7 billion, and the
135M-parameter model that docs/defaults.md measures got worse."""


@dataclass(frozen=True)
class Bucket:
    """The layers of a bucket for this model, or None and why it cannot be used."""

    name: str
    layers: tuple[int, ...] | None
    problem: str | None


@dataclass(frozen=True)
class Parts:
    """The parts that `Anatomy` found: each as its class and its path in the model, or "none"."""

    num_layers: int
    blocks: str
    final_norm: str
    projection: str
    head: str
    logit_transform: str
    tied: bool


@dataclass(frozen=True)
class Checkup:
    """The parts of a model and the outcomes of the checks.

    Attributes:
        class_name: Class of the model.
        parameters: Number of parameters; tied ones count once.
        dtype, devices: Dtype and devices of the parameters.
        parts: The model's parts; None if they were not found.
        buckets: The layers of "low", "high" and "all".
        layers: The candidate layers of the tested configuration.
        timings: Time per token; None if it was not measured.
        checks: The checks in the order in which they ran.
    """

    class_name: str
    parameters: int
    dtype: str
    devices: tuple[str, ...]
    parts: Parts | None
    buckets: tuple[Bucket, ...]
    layers: tuple[int, ...]
    timings: Timings | None
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether all checks passed or warned: none failed."""
        return all(check.status != FAILED for check in self.checks)


def check_up(
    model: Any,
    tokenizer: Any,
    config: MethodConfig | str | Sequence[int] | None = None,
    weights: Sequence[WeightsReport] = (),
) -> Checkup:
    """Examine a model.

    Args:
        model, tokenizer: The result of `dola.load`.
        config: The configuration to test: a DoLaConfig, another method's settings, or layers. The default is that of
            `dola.attach`.
        weights: The reports that `dola.load(..., on_weights=weights.append)` collected. They are available only while a model
            is loaded; without them its weights are not checked.

    Raises:
        LayersError: This model does not have these layers.
    """
    examination = Examination(model, tokenizer, config, weights)
    checks = examination.run()
    parameters = list(model.parameters())
    return Checkup(
        class_name=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        dtype=", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})),
        devices=tuple(sorted({str(parameter.device) for parameter in parameters})),
        parts=_parts(examination.anatomy) if examination.anatomy else None,
        buckets=_buckets(examination.anatomy) if examination.anatomy else (),
        layers=examination.layers,
        timings=examination.timings,
        checks=checks,
    )


def advice(checkup: Checkup) -> list[str]:
    """Recommendations for the findings. They claim no more than docs/defaults.md and the paper show."""
    failed = {check.name for check in checkup.checks if check.status == FAILED}
    found = []
    if "readout" in failed and checkup.parts is not None:
        found.append(
            f"The readout does not reproduce the model's logits. Is the final norm right ({checkup.parts.final_norm})? "
            "Name the parts yourself: dola.attach(model, ..., anatomy=dola.Anatomy(...))."
        )
    if "weights" in failed:
        found.append("The weights differ from the file's, so all other checks examined another model. Fix that first.")
    if "tokenizer" in failed:
        found.append("Tokenizer and model do not match: use the tokenizer that the model was trained with.")
    if "chat template" in failed:
        found.append(
            "Chats cannot be decoded with this model: use --no-chat, or fix the template in its folder (chat_template.jinja or "
            "tokenizer_config.json)."
        )
    if failed & {"with DoLa", "contrast", "after DoLa"}:
        found.append("This should not happen with any model: please report it, with the output of this command and --json.")
    if checkup.parameters < SMALL:
        found.append(
            f"This model is small: {checkup.parameters / 1e6:.0f} million parameters. The paper tests models of 7 to 65 "
            "billion. SmolLM2-135M got worse with DoLa on 300 items of FACTOR-news. Measure yours with `dola eval`."
        )
    if "without DoLa" in failed and "float16" in checkup.dtype.split(", "):
        found.append("float16 overflows above 65504, and some models do: use --dtype bfloat16 or --dtype float32.")
    elif {"bfloat16", "float16"} & set(checkup.dtype.split(", ")):
        found.append(
            f"The contrast amplifies the rounding of {checkup.dtype}: a token that differs between runs may be a near-tie. "
            "To be exact, and to compare the speed on this machine: --dtype float32."
        )
    if checkup.devices == ("cpu",) and torch.cuda.is_available():
        found.append("This machine has a GPU, but the model is on the CPU: --device cuda.")
    for bucket in checkup.buckets:
        if bucket.layers is None:
            found.append(f'layers="{bucket.name}" cannot be used with this model; use "high", or name layers.')
    return found


def _buckets(anatomy: Anatomy) -> tuple[Bucket, ...]:
    found = []
    for name in BUCKETS:
        try:
            found.append(Bucket(name, anatomy.candidates(name), None))
        except LayersError as error:
            found.append(Bucket(name, None, error.message))
    return tuple(found)


def _parts(anatomy: Anatomy) -> Parts:
    def located(part: Any) -> str:
        """Class and path of a part; a transform that is not a module describes itself."""
        if part is None:
            return "none"
        path = next((path for path, module in anatomy.lm.named_modules() if module is part), None)
        return repr(part) if path is None else f"{type(part).__name__} at {path}"

    return Parts(
        num_layers=anatomy.num_layers,
        blocks=located(anatomy.blocks[0]).removesuffix(".0"),
        final_norm=located(anatomy.final_norm),
        projection=located(anatomy.projection),
        head=located(anatomy.head),
        logit_transform=located(anatomy.logit_transform),
        tied=anatomy.tied,
    )
