"""One call of `generate` for the command's verbs. Other fields of the model's generation config are kept or reported.

    generate_as_asked -> FIELDS (generation_fields.py) -> model.generate(...) -> rows, each up to what ended it

Arguments of `generate` override the model's generation config. So nothing on the model is replaced, and calls in several
threads do not affect each other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, StopStringCriteria

from dola.errors import DolaError, ModelError
from dola.methods.config import MethodConfig
from dola.model.anatomy import unwrap
from dola.model.generation_fields import FIELDS, Review, differences, end_tokens, review, shown, switched_off
from dola.text.encoding import Encoder

logger = logging.getLogger("dola")


@dataclass(frozen=True)
class Generated:
    """The result of a call.

    Attributes:
        rows: The new tokens of each row, up to and including the one that ended it.
        ended: Whether an end token or a stop string ended each row, not the length.
    """

    rows: list[list[int]]
    ended: list[bool]


def generate_as_asked(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    call: Mapping[str, Any],
    *,
    generate: Callable[..., Any] | None = None,
    report: bool = True,
) -> Generated:
    """Decode `inputs` with the arguments `call` and the fields of the model's own generation config that the table keeps.

    Args:
        model: The model, with DoLa attached or without.
        tokenizer: Its tokenizer: stop strings need it.
        inputs: `input_ids` and `attention_mask`, [B, T].
        call: Arguments of `generate`; stop strings among them are added to the model's own.
        generate: The function to call instead of `model.generate`.
        report: Whether to report fields that are not used, and to refuse those that the table refuses.

    Raises:
        ModelError: The generation config requests something unsupported, or `generate` fails because of it.
    """
    found = review(own_config(model))
    ends = _end_tokens(model)
    if report:
        refuse(found)
        say(model, found, call)
    wanted = [given for given in (call.get("stop_strings"), found.kept.get("stop_strings")) if given is not None]
    stop = [each for given in wanted for each in (given if isinstance(given, (list, tuple)) else [given])]
    call = {**switched_off(found, call), **call, "pad_token_id": Encoder.of(model, tokenizer).pad_token_id}
    if "stop_strings" in {**found.kept, **call}:
        call["stop_strings"] = None  # `_Stops` handles them

    def run(**changed: Any) -> tuple[Tensor, _Stops | None]:
        stops = _Stops(tokenizer, stop) if wanted and "stop_strings" not in changed else None
        criteria = [*(call.get("stopping_criteria") or ()), *([stops] if stops else ())]
        settings = {**call, **changed, "stopping_criteria": StoppingCriteriaList(criteria)}
        output = (generate or model.generate)(**inputs, **settings)
        return getattr(output, "sequences", output), stops

    try:
        sequences, stops = run()
    except Exception as error:
        if (ours := blamed(error, found, run)) is not None:
            raise ours from error
        raise
    length = inputs["input_ids"].shape[1]
    beams = (call.get("num_beams") or 1) > 1  # the rows of beams are not those of the output
    lengths = {} if stops is None or beams else stops.lengths
    return _cut(sequences[:, length:].tolist(), {row: at - length for row, at in lengths.items()}, ends)


def as_generate(model: Any, config: MethodConfig | None) -> Callable[..., Any]:
    """The model's `generate`, with DoLa if `config` is given, ignoring a call's `dola_layers`."""
    from dola.decoding.generate import generate

    if config is not None:
        return lambda **call: generate(model, **{**call, "dola_layers": config})
    return model.generate  # type: ignore[no-any-return]


def own_config(model: Any) -> Any:
    """A model's generation config; that of a PEFT wrapper takes precedence."""
    found = getattr(model, "generation_config", None)
    return getattr(unwrap(model), "generation_config", None) if found is None else found


def refuse(found: Review) -> None:
    """Raise ModelError for a field that can be neither supported nor ignored."""
    if found.refused:
        name, value = next(iter(found.refused.items()))
        raise ModelError(
            f"The model's generation config sets {shown(name, value)}: {FIELDS[name].why}.",
            hint=f"remove {name} from generation_config.json in the model's folder; in Python, set it to None",
        )


def say(model: Any, found: Review, call: Mapping[str, Any], kept: Collection[str] = ()) -> None:
    """Log the fields that a call does not use, once for each model."""
    said = _said.setdefault(unwrap(model), set())
    for line in (*differences(found, call, kept), *odd_ids(model)):
        if line not in said:
            said.add(line)
            logger.warning(line)


_said: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def _vocabulary(model: Any) -> int:
    """The number of tokens that the model can read."""
    size: int = unwrap(model).get_input_embeddings().weight.shape[0]
    return size


def _end_tokens(model: Any) -> set[int]:
    """The tokens that end a text.

    Raises:
        ModelError: The field does not hold ids.
    """
    try:
        return end_tokens(own_config(model))
    except TypeError as error:
        raise ModelError(
            f"{error} in the model's generation config.",
            hint="correct eos_token_id in generation_config.json in the model's folder",
        ) from None


def odd_ids(model: Any) -> list[str]:
    """Sentences about end tokens that the model cannot write."""
    ends = _end_tokens(model)
    size = _vocabulary(model) if ends else 0
    odd = sorted(end for end in ends if not 0 <= end < size)
    if not odd:
        return []
    listed = ", ".join(map(str, odd))
    return [f"No text ends with {listed} (eos_token_id of the model's generation config): tokens are 0 to {size - 1}."]


class _Stops(StoppingCriteria):  # type: ignore[misc]
    """Stop strings that record the length at which each row ended: rows that continue with others are cut there.

    Attributes:
        lengths: Row -> its number of tokens, including the prompt, when a stop string ended it.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self._criterion = StopStringCriteria(tokenizer, list(strings))
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """See `StopStringCriteria`: the rows of [B, T] that a stop string ends, bool [B]."""
        done: Tensor = self._criterion(input_ids, scores, **kwargs)
        for row in done.nonzero().flatten().tolist():
            self.lengths.setdefault(row, input_ids.shape[1])
        return done


def _cut(rows: list[list[int]], stopped: Mapping[int, int], ends: set[int]) -> Generated:
    """Rows up to their end token or to the end of a stop string, whichever comes first."""
    made = Generated([], [])
    for i, row in enumerate(rows):
        lengths = [position + 1 for position, token in enumerate(row) if token in ends][:1]
        lengths += [stopped[i]] if i in stopped else []
        made.rows.append(row[: min(lengths)] if lengths else row)
        made.ended.append(bool(lengths))
    return made


def blamed(error: Exception, found: Review, run: Callable[..., Any]) -> DolaError | None:
    """dola's error if the call works without some fields of the model's own generation config, otherwise None.

    transformers does not validate unexpected values: Python raises an error where they are used, often in the middle of a call.
    So the call is tried without these fields, to find the one at fault instead of guessing.

    Args:
        error: The exception from the call.
        found: The review of the generation config.
        run: The call, with arguments of `generate` to change.
    """
    asked = {**found.kept, **found.unknown}
    if isinstance(error, (DolaError, MemoryError)) or "out of memory" in str(error) or not asked:
        return None

    def works_without(*names: str) -> bool:
        try:
            run(**{name: FIELDS[name].off if name in FIELDS else None for name in names}, streamer=None)
        except Exception:
            return False
        return True

    if not works_without(*asked):
        return None
    names = next(([name] for name in asked if works_without(name)), list(asked))
    listed = ", ".join(shown(name, asked[name]) for name in names)
    line = (str(error).strip() or repr(error)).splitlines()[0]
    return ModelError(
        f"transformers cannot decode with {listed} of the model's generation config: {type(error).__name__}: {line}",
        hint=f"correct or remove {', '.join(names)} in generation_config.json in the model's folder",
    )
