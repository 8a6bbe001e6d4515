"""A trace: each layer's predictions for each token, as data. `dola.trace` creates it, `dola.plot` draws it.

Layer 0 is the embedding output and N the mature layer. This module needs neither torch nor a model, so a saved trace can be
viewed anywhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dola.errors import MissingExtraError, TraceError
from dola.files.json_text import BrokenJSONError, dumps, values
from dola.installed.hints import install_line
from dola.text.token_text import percent, quoted

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig

SCHEMA_NAME = "dola.trace/1"

MODES = {"prompt": "the prompt's own tokens", "dola": "tokens that {method} chose", "greedy": "tokens of greedy decoding"}
"""Whose tokens a trace is about."""


@dataclass(frozen=True)
class PlausibleToken:
    """A member of a plausible set.

    Attributes:
        id: The token.
        contrast: Its score: F in nats, or its logit if the scores are a distribution.
        probability: Its probability in each layer, [N+1].
        log_p, log_q: Its log-probability in the mature layer and in `TokenTrace.layer`. They give F at any strength. None in
            files of earlier versions; log_q also without such a layer.
    """

    id: int
    contrast: float
    probability: tuple[float, ...]
    log_p: float | None = None
    log_q: float | None = None


@dataclass(frozen=True)
class TokenTrace:
    """How one token is chosen.

    Attributes:
        position: Position of the token before it in the sequence, at which the residual streams are read.
        after: The token at that position.
        token: The token that follows in the text, or None after the last token of a prompt.
        divergence: Divergence of each layer from the mature one, [N]: in nats, for Jensen-Shannon in [0, ln 2].
        layer: The premature layer, the candidate that diverges most. Under a method other than DoLa the only candidate that had
            a weight; None where several had one, or none.
        lazy: Whether lazy contrast applies: one token is plausible, so the premature layer need not be read.
        mature_choice: The mature layer's likeliest token.
        dola_choice: The token with the largest score: DoLa's contrast, or what the method puts in its place.
        plausible_count: Size of the plausible set.
        plausible: Members of the plausible set by contrast, the largest first; at most 20: the likeliest ones and DoLa's
            choice.
        top: The likeliest tokens of each layer with their probabilities, [N+1][k].
        rank: Rank of `token` in each layer, [N+1]; 1 is the likeliest. None without a `token`.
        probability: Probability of `token` in each layer, [N+1]; None without a `token`.
        entropy: Entropy of the mature distribution, in nats. None in files of earlier versions.
    """

    position: int
    after: int
    token: int | None
    divergence: tuple[float, ...]
    layer: int | None
    lazy: bool
    mature_choice: int
    dola_choice: int
    plausible_count: int
    plausible: tuple[PlausibleToken, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    rank: tuple[int, ...] | None
    probability: tuple[float, ...] | None
    entropy: float | None = None

    def member(self, token: int) -> PlausibleToken | None:
        """The entry of a plausible token, or None if it is not listed."""
        return next((each for each in self.plausible if each.id == token), None)

    def ids(self) -> set[int]:
        """All tokens that this trace mentions."""
        named = {self.after, self.mature_choice, self.dola_choice, *(each.id for each in self.plausible)}
        return named | {token for layer in self.top for token, _ in layer} | (set() if self.token is None else {self.token})


@dataclass(frozen=True)
class LayerTrace:
    """Each layer's predictions for the tokens of one text.

    Attributes:
        model: Name or path of the model.
        prompt: The prompt's text, chat template included.
        mode: Whose tokens these are, a key of MODES.
        settings: Settings of the method, from its configuration's `as_dict`, and `repetition_penalty` for generated tokens.
        num_layers: N, the number of blocks.
        candidates: The candidate premature layers.
        prompt_tokens: Length of the prompt.
        tokens: One entry for each traced token.
        texts: Text of each mentioned token, by id.
        without_lens: The trace of the same tokens through the final norm, if this one was read through a lens.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> trace = dola.trace(model, tokenizer, "The capital of Washington State is", "high")
        >>> trace.candidates
        (15, 17, 19, 21, 23, 25, 27, 29)
        >>> dola.LayerTrace.from_json(trace.to_json()) == trace
        True
    """

    model: str
    prompt: str
    mode: str
    settings: Mapping[str, Any]
    num_layers: int
    candidates: tuple[int, ...]
    prompt_tokens: int
    tokens: tuple[TokenTrace, ...]
    texts: Mapping[int, str]
    without_lens: LayerTrace | None = None

    @property
    def readings(self) -> tuple[LayerTrace, ...]:
        """The traces that renderings show: without and with the lens, or only this one."""
        return (self,) if self.without_lens is None else (self.without_lens, self)

    @property
    def config(self) -> MethodConfig:
        """The configuration that was traced."""
        from dola.methods.registry import config_of

        return config_of({name: value for name, value in self.settings.items() if name != "repetition_penalty"})

    @property
    def by_dola(self) -> bool:
        """Whether DoLa was traced, and not another method."""
        return bool(self.settings.get("method", "dola") == "dola")

    @property
    def method_name(self) -> str:
        """The method's name for people; that of its settings if it is not installed here."""
        from dola.methods.registry import label_of

        return label_of(str(self.settings.get("method", "dola")))

    @property
    def used_layer(self) -> str:
        """What `TokenTrace.layer` is, for people."""
        return "premature layer" if self.by_dola else f"layer that {self.method_name} used"

    def uses(self, *, settled: bool = False) -> Counter[int]:
        """Number of tokens by the layer that was used for them (`TokenTrace.layer`).

        Args:
            settled: Whether to count the tokens with one plausible choice, which no layer can change, or all others.
        """
        tokens = (token for token in self.tokens if (token.plausible_count == 1) == settled)
        return Counter(token.layer for token in tokens if token.layer is not None)

    @property
    def divergence(self) -> list[list[float]]:
        """Divergence of every layer from the mature one at every token, in nats: `[layers 0 .. N-1][tokens]`."""
        return [[token.divergence[layer] for token in self.tokens] for layer in range(self.num_layers)]

    @property
    def scale(self) -> float:
        """The divergence at the top of a color scale: ln 2, the bound of the Jensen-Shannon divergence, or the largest one."""
        if self.settings.get("divergence", "jsd") == "jsd":
            return math.log(2)
        return max((value for token in self.tokens for value in token.divergence), default=0.0) or 1.0

    @property
    def title(self) -> str:
        """A short description of what is traced."""
        layers = self.settings["layers"]
        named = layers if isinstance(layers, str) else ", ".join(map(str, layers))
        penalty = self.settings.get("repetition_penalty")
        lens = "" if (given := self.settings.get("lens")) is None else f", lens {PurePath(given).name}"
        what = MODES[self.mode].format(method=self.method_name)
        return f"{what}, layers {named}{lens}" + (f", penalty {penalty:g}" if penalty is not None else "")

    def text(self, token: int | None) -> str:
        """The text of a token; "" for None."""
        return "" if token is None else self.texts[token]

    def telling(self) -> int:
        """The index of the most interesting token: where the contrast most clearly overrules the mature layer's choice."""

        def weight(index: int) -> tuple[bool, float]:
            token = self.tokens[index]
            layers = self.candidates if token.layer is None else (token.layer,)
            apart = max(token.divergence[layer] for layer in layers)
            return token.dola_choice != token.mature_choice, 0.0 if token.lazy else apart

        return max(range(len(self.tokens)), key=weight)

    def explain(self, index: int) -> str:
        """What happened at token `index`, in one sentence.

        Raises:
            IndexError: No such token.
        """
        return _explain(self, self.tokens[index])

    def as_dict(self) -> dict[str, Any]:
        """The trace as JSON values, with the fields in docs/cli.md."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "mode": self.mode,
            "settings": dict(self.settings),
            "num_layers": self.num_layers,
            "candidates": list(self.candidates),
            "prompt_tokens": self.prompt_tokens,
            "tokens": [_token_as_dict(token) for token in self.tokens],
            "texts": {str(token): text for token, text in self.texts.items()},
            "without_lens": None if self.without_lens is None else self.without_lens.as_dict(),
        }

    def to_json(self) -> str:
        """The trace as one line of JSON, which `from_json` reads."""
        from dola._version import __version__

        return dumps({"schema": SCHEMA_NAME, "dola": __version__, **self.as_dict()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> LayerTrace:
        """Read a trace that `to_json` or `dola trace --json` has written.

        Raises:
            TraceError: The text is truncated, not a trace, from another version, or contains contradictory values.
        """
        try:
            found = [value for _, value in values(text)]
        except BrokenJSONError as error:
            raise broken_json(error.reason, cut_off=error.cut_off) from None
        if not found:
            raise broken_json("it is empty", cut_off=True)
        if len(found) > 1:
            raise TraceError(
                f"This holds {len(found)} JSON values; one trace is needed.",
                hint="give the lines of a file one after the other",
            )
        return cls.from_value(found[0])

    @classmethod
    def from_value(cls, found: Any) -> LayerTrace:
        """Read a trace from parsed JSON.

        Raises:
            TraceError: See `from_json`.
        """
        schema = found.get("schema") if isinstance(found, dict) else None
        if not isinstance(schema, str) or not schema.startswith("dola.trace/"):
            raise TraceError(
                f"This is JSON, but no trace: its schema is {schema!r}, not {SCHEMA_NAME!r}.",
                hint="write one with dola trace ... --json",
            )
        if schema != SCHEMA_NAME:
            raise TraceError(
                f"This trace has schema {schema!r}, written by dola {found.get('dola')}; this version reads {SCHEMA_NAME!r}.",
                hint="trace the text again, or install the dola that wrote it",
            )
        try:
            trace = _whole(found)
            if found.get("without_lens") is not None:  # files of older versions do not have it
                trace = replace(trace, without_lens=_whole(found["without_lens"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise TraceError(
                f"This trace is damaged: {type(error).__name__}: {error}.", hint="write it again with dola trace ... --json"
            ) from None
        return trace

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each token and layer, including the mature layer with divergence 0.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("A DataFrame needs pandas, which is not installed.", hint=install_line("plot")) from None
        return pandas.DataFrame(
            {
                "index": index,
                "position": token.position,
                "after": self.text(token.after),
                "token": None if token.token is None else self.text(token.token),
                "layer": layer,
                "candidate": layer in self.candidates,
                "chosen": layer == token.layer,
                "divergence": (*token.divergence, 0.0)[layer],
                "rank": None if token.rank is None else token.rank[layer],
                "probability": None if token.probability is None else token.probability[layer],
                "top_token": self.text(token.top[layer][0][0]),
                "top_probability": token.top[layer][0][1],
                "mature_choice": self.text(token.mature_choice),
                "dola_choice": self.text(token.dola_choice),
                "lazy": token.lazy,
            }
            for index, token in enumerate(self.tokens)
            for layer in range(self.num_layers + 1)
        )

    def _repr_html_(self) -> str:
        """The page of `dola.plot.html` in a frame, for notebooks."""
        from dola.plot.html import frame

        return frame(self.readings)


def _whole(found: Mapping[str, Any]) -> LayerTrace:
    """Build and check one trace from its JSON, without `without_lens`."""
    names = [name for name in LayerTrace.__dataclass_fields__ if name != "without_lens"]
    trace = LayerTrace(**{**{name: found[name] for name in names}, **_parsed(found)})
    _check(trace)
    return trace


def broken_json(reason: str, *, cut_off: bool) -> TraceError:
    """The error for text that is not JSON."""
    hint = "write it again with dola trace ... --json"
    return TraceError(f"This is not a whole JSON object: {reason}.", hint=f"was it cut off? {hint}" if cut_off else hint)


def _explain(trace: LayerTrace, token: TokenTrace) -> str:
    mature, chosen = token.member(token.mature_choice), token.member(token.dola_choice)
    assert mature is not None
    assert chosen is not None
    first, ours = (quoted(trace.text(each.id)) for each in (mature, chosen))
    said = f"After {quoted(trace.text(token.after))} the last layer puts {first} first ({percent(mature.probability[-1])}"
    before = [percent(each.probability[token.layer or 0]) for each in (mature, chosen)]  # of DoLa, which always has a layer
    chooses = "would choose it" if trace.mode == "greedy" else "chooses it"  # those tokens are not DoLa's
    if token.plausible_count == 1:
        said += ") and no other token is plausible, so no earlier layer can change the choice"
    elif not trace.by_dola:
        same = chosen.id == mature.id
        said += f"), and {trace.method_name} agrees" if same else f"), but {trace.method_name} puts {ours} first"
    elif (strength := trace.settings.get("strength", 1)) != 1:
        as_well = f"), and its contrast with layer {token.layer} ({before[0]} there) is the largest too"
        instead = f"; {before[0]} in layer {token.layer}), but {ours} ({before[1]} there) has the largest contrast"
        agrees = chosen.id == mature.id
        said += f"{as_well if agrees else instead} at strength {strength:g}, so DoLa {'agrees' if agrees else chooses}"
    elif chosen.id == mature.id:
        said += f"), and it gained most over layer {token.layer} as well ({before[0]} there), so DoLa agrees"
    else:
        gain = f"from {before[1]} to {percent(chosen.probability[-1])}"
        said += f"; {before[0]} in layer {token.layer}), but {ours} gained most over that layer ({gain}), so DoLa {chooses}"
    return f"{said}{_what_followed(trace, token)}."


def _what_followed(trace: LayerTrace, token: TokenTrace) -> str:
    """The token in the text, if it differs from the choice, as a clause."""
    choice = token.mature_choice if trace.mode == "greedy" else token.dola_choice
    if token.token is None or token.rank is None or token.token == choice:
        return ""
    first = token.token == token.mature_choice
    rank = "the last layer's first choice" if first else f"rank {token.rank[-1]:,} in the last layer"
    rule = "the repetition penalty or another rule of generation made it"
    why = "the text continues with" if trace.mode == "prompt" else rule
    return f"; {why} {quoted(trace.text(token.token))}, {rank}"


def _token_as_dict(token: TokenTrace) -> dict[str, Any]:
    found = {name: getattr(token, name) for name in TokenTrace.__dataclass_fields__}
    found["plausible"] = [
        {name: getattr(each, name) for name in PlausibleToken.__dataclass_fields__} for each in token.plausible
    ]
    return found


def _parsed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a LayerTrace that need conversion from JSON."""
    layers = found["settings"]["layers"]
    return {
        "settings": {**found["settings"], "layers": layers if isinstance(layers, str) else tuple(layers)},
        "candidates": tuple(found["candidates"]),
        "tokens": tuple(_token(each) for each in found["tokens"]),
        "texts": {int(token): text for token, text in found["texts"].items()},
    }


def _token(found: Mapping[str, Any]) -> TokenTrace:
    fields = {name: found[name] for name in TokenTrace.__dataclass_fields__ if name != "entropy"}
    fields["entropy"] = found.get("entropy")
    fields["plausible"] = tuple(
        PlausibleToken(each["id"], each["contrast"], tuple(each["probability"]), each.get("log_p"), each.get("log_q"))
        for each in found["plausible"]
    )
    fields["top"] = tuple(tuple((token, share) for token, share in layer) for layer in found["top"])
    for name in ("divergence", "rank", "probability"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return TokenTrace(**fields)


def _check(trace: LayerTrace) -> None:
    """Raise ValueError if a trace contains values that the renderings cannot show."""
    layers = trace.num_layers

    def hold(condition: bool, what: str) -> None:
        if not condition:
            raise ValueError(what)

    def numbers(values: Any, length: int, what: str) -> None:
        hold(len(values) == length and all(_is_number(value) for value in values), f"{what} are not {length} numbers")

    hold(len(trace.tokens) > 0, "it has no tokens")
    hold(trace.mode in MODES, f"mode {trace.mode!r} is not known")
    hold(all(type(layer) is int and 0 <= layer < layers for layer in trace.candidates), f"candidates {trace.candidates}")
    hold(all(isinstance(text, str) for text in (*trace.texts.values(), trace.model, trace.prompt)), "a text is none")
    for name, value in _odd_settings(trace.settings).items():
        hold(False, f"{name} {value!r}")
    hold(type(trace.prompt_tokens) is int, f"prompt_tokens {trace.prompt_tokens!r}")
    for index, token in enumerate(trace.tokens):
        where = f"of token {index}"
        hold(type(token.position) is type(token.plausible_count) is int and type(token.lazy) is bool, f"what is said {where}")
        hold(token.entropy is None or _is_number(token.entropy), f"entropy {where}")
        none = token.layer is None and not trace.by_dola
        hold(none or token.layer in trace.candidates, f"layer {token.layer} {where} is not a candidate")
        numbers(token.divergence, layers, f"divergences {where}")
        hold((token.rank is None) == (token.probability is None) == (token.token is None), f"what is said {where} is not whole")
        for name in ("rank", "probability"):
            if (values := getattr(token, name)) is not None:
                numbers(values, layers + 1, f"{name} {where}")
        hold(len(token.top) == layers + 1 and all(token.top), f"top {where} does not have {layers + 1} layers")
        for layer in token.top:
            numbers([share for _, share in layer], len(layer), f"top {where}")
        for each in token.plausible:
            numbers(each.probability, layers + 1, f"plausible {where}")
            numbers([each.contrast], 1, f"contrast {where}")
            known = [value for value in (each.log_p, each.log_q) if value is not None]
            numbers(known, len(known), f"log-probabilities {where}")
        chosen = {token.mature_choice, token.dola_choice}
        hold(chosen <= {each.id for each in token.plausible}, f"the choice {where} is not plausible")
        hold(token.ids() <= trace.texts.keys(), f"a token {where} has no text")


def _odd_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings whose values are invalid."""
    from dola.methods.registry import usable

    kind = usable(settings.get("method", "dola"))
    known = () if kind is None else kind.settings()  # a method that cannot be used here cannot be checked
    found = {each.name: settings[each.name] for each in known if each.name in settings and not each.allows(settings[each.name])}
    penalty = settings.get("repetition_penalty")
    return found if penalty is None or _is_number(penalty) else {**found, "repetition_penalty": penalty}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
