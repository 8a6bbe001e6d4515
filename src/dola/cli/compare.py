"""`dola compare`: one prompt answered greedily, greedily with the repetition penalty, and with methods, side by side.

The second column is a control: DoLa is used with a repetition penalty, which causes part of the changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from dola.cli import backends, options
from dola.cli.answers import Answer, answers
from dola.cli.columns import render
from dola.cli.output import print_json, stdout
from dola.cli.prompts import read_prompts
from dola.errors import UsageError
from dola.methods.names import RECOMMENDED_PENALTY

__all__ = ["Answer", "answers", "command", "render"]

SCHEMA_NAME = "dola.compare/1"
SCHEMA = {
    "model": "--model as given",
    "prompt": "the prompt, before any chat template",
    "prompt_tokens": "its length, including the chat template",
    "columns[].title": "the printed title: greedy; greedy with the penalty; each method with its layers, "
    "or one for each --layers",
    "columns[].layers": '"low", "high", "all" or a list of layers; null if DoLa is off',
    "columns[].candidate_layers": "the candidate layers of these settings in this model; null if DoLa is off",
    **options.documented("columns[]", "of DoLa; null if it is off"),
    "columns[].repetition_penalty": "repetition penalty; 1.0 in the first column",
    "columns[].text": "the answer alone, without special tokens",
    "columns[].token_ids": "its tokens, including the one that ended it",
    "columns[].pieces": "the text of each token",
    "columns[].differs": "for each token, whether the aligned greedy answer lacks a counterpart",
    "columns[].finish_reason": '"stop": the model ended it; "length": --max-new-tokens did',
    "columns[].seconds": "seconds of the whole call, including the prompt's forward pass, after a warm-up",
    "columns[].tokens_per_second": "new tokens per second of the whole call",
    "settings.max_new_tokens": "maximum length of an answer",
    "settings.chat": "whether the chat template was used",
    "settings.backend": "--backend as given",
    "settings.dtype": "dtype of the weights",
    "settings.device": "device of the weights",
}
"""Fields of `dola compare --json`: one object."""


@options.method_options(reference=True, method=False)
def command(
    prompt: Annotated[
        str | None, typer.Argument(help="The text to complete, or the message to answer; - reads standard input.")
    ] = None,
    model: options.Model = "smollm2",
    chat: options.Chat = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Layers of a column, for each method: {options.LAYERS_HELP}. Repeat it for more columns.",
            show_default="each method's own; for DoLa low, high, and dola_layers of the model's generation config",
        ),
    ] = None,
    dola: options.MethodOptions = options.DEFAULTS,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A method with columns of its own: {options.METHOD_HELP}. Repeat it for more.",
            show_default="dola",
            autocompletion=options.complete(*options.BUILT_IN),
        ),
    ] = None,
    set_: options.Set = None,
    max_new_tokens: options.MaxNewTokens = 50,
    repetition_penalty: options.RepetitionPenalty = RECOMMENDED_PENALTY,
    backend: backends.BackendOption = backends.Name.torch,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    config: options.ConfigFile = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Show the answers of greedy decoding and of DoLa side by side.

    The columns are greedy decoding, greedy decoding with the same repetition penalty (what the penalty does alone), and DoLa
    with low and with high layers. Tokens that greedy decoding did not choose are marked.

    \b
    Examples:
      dola compare "On what date was the Declaration of Independence officially signed?"
      dola compare "The capital of Washington State is" --layers high --layers 26,28
      dola compare "Who wrote Hamlet?" --method dola --method sled --json > hamlet.json
    """
    if "off" in (layers or []):
        raise UsageError("--layers off does not make a column: the first two already run without DoLa.", hint="omit it")
    named: list[str | None] = [*method] if method else [None]
    chosen = [replace(dola, method=each, named=set_) for each in named]
    if set_ and len(named) > 1:
        raise UsageError(
            "--set does not say which of several methods it is for.", hint=f"name one method: --method {named[-1]}"
        )
    configs = [replace(each, layers=of).config() for each in chosen for of in layers or _usual_layers(each)]
    if twice := [config for config in configs if configs.count(config) > 1]:
        raise UsageError(f"Two columns are the same: {twice[0]}.", hint="name each method and each of its layers once")
    (asked,) = read_prompts(prompt, verb="compare")
    loaded = backends.load(backend, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if not layers and (of_dola := next((each for each in chosen if each.is_dola), None)):
        own, _ = loaded.settle_layers(of_dola.config(), None)
        configs += [own] if own not in configs else []
    found = answers(
        loaded,
        asked.text,
        layers=configs,
        max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
        chat=chat,
    )
    if not json:
        render(stdout(), asked.text, found)
        return
    used = {
        "max_new_tokens": max_new_tokens,
        "chat": loaded.uses_chat(chat),
        "backend": loaded.name,
        "dtype": loaded.dtype,
        "device": loaded.device,
    }
    head = {"model": model, "prompt": asked.text, "prompt_tokens": found[0].prompt_tokens}
    print_json(SCHEMA_NAME, {**head, "columns": [_column(answer) for answer in found], "settings": used})


def _usual_layers(method: options.MethodOptions) -> list[str | None]:
    """The layers of a method's columns: two buckets for DoLa, and its own default for another."""
    return ["low", "high"] if method.is_dola else [None]


def _column(answer: Answer) -> dict[str, Any]:
    config = answer.config
    return {
        "title": answer.title,
        "layers": config and config.layers,
        "candidate_layers": answer.candidate_layers,
        **options.settings_beside_layers(config),
        "repetition_penalty": answer.repetition_penalty,
        "text": answer.text,
        "token_ids": answer.token_ids,
        "pieces": answer.pieces,
        "differs": answer.differs,
        "finish_reason": answer.finish_reason,
        "seconds": round(answer.seconds, 3),
        "tokens_per_second": round(answer.tokens_per_second, 2),
    }
