"""`dola trace`: shows what each layer predicts for each token, on the terminal, as a figure, as a page, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dola.cli import backends, options
from dola.cli.output import note, print_json, stdout, waiting
from dola.cli.prompts import read_prompts
from dola.errors import TraceError, UsageError
from dola.files.whole_file import write_whole
from dola.methods.names import RECOMMENDED_PENALTY

if TYPE_CHECKING:
    from dola.tracing.data import LayerTrace

SCHEMA_NAME = "dola.trace/1"
SCHEMA = {
    "model": "--model as given",
    "prompt": "the text that was read, including the chat template",
    "mode": '"prompt": the prompt\'s own tokens; "dola" or "greedy": tokens generated after it, by the method or plainly',
    "settings.layers": '"high", "low", "all" or a list of layers',
    **options.documented("settings", "of DoLa", hidden=["lazy"]),
    "settings.repetition_penalty": "repetition penalty of generated tokens; absent without any",
    "num_layers": "N, the number of blocks; layer 0 is the embedding output, layer N the last one",
    "candidates": "the candidate layers",
    "prompt_tokens": "length of the prompt",
    "tokens[].position": "position of the token before, at which the layers are read",
    "tokens[].after": "that token's id",
    "tokens[].token": "id of the token that follows in the text; null after the end of a prompt",
    "tokens[].divergence": "divergence of layers 0 to N-1 from the last one, in nats",
    "tokens[].layer": "the premature layer: the candidate that diverges most; under another method the only candidate that had "
    "a weight, null where several had one or none",
    "tokens[].lazy": "whether lazy contrast applies: only one token is plausible",
    "tokens[].mature_choice": "id of the last layer's likeliest token",
    "tokens[].dola_choice": "id of the token with the largest score, which is the method's first choice",
    "tokens[].plausible_count": "size of the plausible set",
    "tokens[].plausible[].id": "a member, by score; of more than 20 the 20 likeliest, the method's choice among them",
    "tokens[].plausible[].contrast": "its score: log_p - strength * log_q, in nats; under another method its logit, as where "
    "the scores are a distribution",
    "tokens[].plausible[].probability": "its probability in layers 0 to N",
    "tokens[].plausible[].log_p": "its log-probability in the last layer, in nats; null in files of earlier versions",
    "tokens[].plausible[].log_q": "the same in that layer; null without one",
    "tokens[].top": "for layers 0 to N: the --top-k likeliest tokens, each as [id, probability]",
    "tokens[].rank": "rank of the token that follows, in layers 0 to N; 1 is the likeliest; null if no token follows",
    "tokens[].probability": "probability of the token that follows, in layers 0 to N; null if no token follows",
    "tokens[].entropy": "entropy of the last layer's distribution, in nats; null in files of earlier versions",
    "without_lens": "null; with --lens, the same tokens read through the final norm: an object with the fields of this one",
    "texts": "object: the text of each token in the trace, by id; a part of a character as its bytes, \\\\xe6",
}
"""Fields of `dola trace --json`: one object on a line; with --greedy two, greedy decoding's first."""


@options.method_options(layers=options.OwnLayers, reference=True)
def command(
    prompt: Annotated[
        str | None, typer.Argument(help="The text to read, or the message to answer; - reads standard input.")
    ] = None,
    generate: Annotated[
        int | None,
        typer.Option(help="Generate this many tokens and trace them instead of the prompt.", callback=options.between(1)),
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="With --generate: also trace greedy decoding, with the same penalty.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write an interactive page: one file that needs no network.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a figure: .png, .svg or .pdf.")] = None,
    open_: Annotated[
        list[Path] | None,
        typer.Option("--open", help="Show a saved --json output instead of tracing. Give it twice for two side by side."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Likeliest tokens to keep for each layer.", callback=options.between(1))] = 5,
    model: options.Model = "smollm2",
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Use the model's chat template.", show_default="with --generate, if it has one"),
    ] = None,
    dola: options.MethodOptions = options.DEFAULTS,
    repetition_penalty: options.RepetitionPenalty = RECOMMENDED_PENALTY,
    backend: backends.BackendOption = backends.Name.torch,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    config: options.ConfigFile = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Show what each layer predicts for each token.

    Reads the prompt's own tokens, or generated ones. Prints a heatmap of divergences; --html writes a page that shows the
    likeliest tokens of every layer.

    \b
    Examples:
      dola trace "The capital of Washington State is"
      dola trace "Who wrote Hamlet?" --generate 20 --greedy --html hamlet.html
      dola trace "The capital of Washington State is" --json > trace.json
      dola trace --open trace.json --png trace.png
    """
    if open_ and prompt is not None:
        raise UsageError("A prompt and --open exclude each other.", hint="give one of them")
    if greedy and generate is None:
        raise UsageError("--greedy needs --generate: it applies to generated tokens.", hint="add --generate 20")
    for option, path in (("--html", html), ("--png", png)):
        if path is not None:
            _check_path(option, path)
    if open_:
        traces = [trace for path in open_ for trace in _read(path)]
    else:
        method = dola.config()
        if method is None:
            raise UsageError("--layers off leaves nothing to trace.", hint="name layers: --layers high")
        (asked,) = read_prompts(prompt, verb="trace")
        loaded = backends.load(backend, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        settled, _ = loaded.settle_layers(method, dola.layers)
        assert settled is not None
        templated = loaded.uses_chat(chat) if chat is not None or generate else False
        row = loaded.encode(asked.text, chat=templated)
        loaded.check_room([("", len(row))], generate or 0, option="--generate")

        def traced(decode: str) -> LayerTrace:
            with waiting(f"tracing {method.label() if decode == 'dola' else decode}" if generate else "tracing the prompt"):
                found = loaded.trace(
                    row,
                    settled,
                    generate=generate or 0,
                    decode=decode,
                    repetition_penalty=repetition_penalty,
                    top_k=top_k,
                )
            bare = found.without_lens and dataclasses.replace(found.without_lens, model=model)
            return dataclasses.replace(found, model=model, without_lens=bare)

        traces = [traced(decode) for decode in (["greedy", "dola"] if greedy else ["dola"])]
    _show(traces, html=html, png=png, json=json)


def _check_path(option: str, path: Path) -> None:
    """Refuse a path that cannot be written, before a model is loaded."""
    if option == "--png":
        from dola.bench.chart import check_chart

        check_chart(path, option)
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {str(path.parent)!r} does not exist.", hint=f"mkdir -p {path.parent}")
    if path.is_dir():
        raise UsageError(
            f"{option} {path} is a folder.", hint=f"{option} {path / 'trace'}{'.png' if 'png' in option else '.html'}"
        )


def _read(path: Path) -> list[LayerTrace]:
    from dola.tracing.trace_file import read_traces

    try:
        return read_traces(path, f"--open {str(path)!r}")
    except TraceError as error:
        raise UsageError(error.message, hint=error.hint) from None


def _show(traces: Sequence[LayerTrace], *, html: Path | None, png: Path | None, json: bool) -> None:
    if html is not None:
        from dola.plot.html import page

        write_whole(html, page([each for trace in traces for each in trace.readings]))
        note(f"wrote {html}")
    if png is not None:
        from dola.plot.figure import save

        save([each for trace in traces for each in trace.readings], png)
        note(f"wrote {png}")
    if json:
        for trace in traces:
            print_json(SCHEMA_NAME, trace.as_dict())
        return
    if html is None and png is None:
        from dola.plot.terminal import render

        for each in (each for trace in traces for each in trace.readings):
            render(stdout(), each)
