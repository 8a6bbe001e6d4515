"""`dola lens`: fits lenses, which make early layers readable, imports tuned lenses, and shows what a lens file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import evaluation, options
from dola.cli.help_page import Verb
from dola.cli.output import note, print_json, say, stdout
from dola.errors import UsageError
from dola.files.text_file import read_text
from dola.methods.layers import is_named, parse, spelled

if TYPE_CHECKING:
    from dola.lens.lens import Lens

app = typer.Typer(
    help="Fit, import and show lenses, which make early layers readable. Example: dola lens fit smollm2 --output FILE",
    no_args_is_help=True,
)

SCHEMA_NAME = "dola.lens/1"
SCHEMA = {
    "kind": "linear: the map replaces the final norm; tuned: the map is added to the state, and the final norm follows",
    "layers": "the layers that have a map; 0 is the embedding output",
    "width": "size of the states",
    "model": "the model that the lens was fitted on",
    "revision": "its commit on the hub, or null",
    "num_layers": "N, its number of blocks",
    "dtype": "dtype of its weights, or null",
    "tokens": "positions that the lens was fitted on, or null",
    "held_out": "positions that it was judged on, or null",
    "text": "where the text came from",
    "text_sha256": "SHA-256 of the tokens of the text, or null",
    "table[].layer": "a layer, judged on held-out text",
    "table[].r2": "share of the variance of the head's input that the lens explains, or null",
    "table[].kl": "KL divergence in nats of what the lens reads from the last layer's distribution",
    "table[].top1": "share of positions where both have the same likeliest token",
    "table[].norm_kl": "kl of the final norm in place of the lens",
    "table[].norm_top1": "top1 of the final norm in place of the lens",
}
"""Fields of `dola lens show --json`."""

BAR = 20
"""Characters of a full bar in the plot."""

Chart = Annotated[Path | None, typer.Option(help="Write a chart of the layers: .png, .svg or .pdf.")]
Output = Annotated[Path, typer.Option(help="Write the lens to this file.")]


@app.command(cls=Verb)
def fit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a folder, a .gguf file, or an alias.")],
    output: Output,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="UTF-8 text to fit on. Repeat it for more.", show_default="the model's own samples"),
    ] = None,
    layers: Annotated[str, typer.Option(help=f"Layers to fit: {options.LAYERS_HELP}.")] = "all",
    tokens: Annotated[int, typer.Option(help="Most tokens to fit on.", callback=options.between(1))] = 40_000,
    chart: Chart = None,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    threads: options.Threads = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Fit a lens to a model by least squares, and judge it on text that was held out.

    Re-run the command to resume after an interruption: OUTPUT.partial keeps what was done.

    \b
    Examples:
      dola lens fit smollm2 --output smollm2.lens.safetensors --text book.txt
      dola lens fit smollm2 --output smollm2.lens.safetensors --layers 15,25 --tokens 10000
      dola generate "The capital of Washington State is" --lens smollm2.lens.safetensors
    """
    wanted = parse(layers)
    if not isinstance(wanted, tuple) and not is_named(wanted):
        raise UsageError(f"--layers {layers!r} is not a name of layers, nor numbers.", hint="--layers all, or --layers 15,25")
    evaluation.check_writable({"--output": output})
    _check_chart(chart)
    texts = [read_text(path, name=f"--text {str(path)!r}", error=UsageError) for path in text] if text else None
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    loaded, tokenizer = evaluation.load_model(model, threads=threads, **loading)
    from dola.lens.fit import fit_lens, partial_of

    if texts is None:
        say("No --text was given: the model writes the text itself.")
    kept = partial_of(output)
    if kept.exists():
        say(f"Resuming from {kept}.")
    try:
        lens = fit_lens(loaded, tokenizer, texts, layers=wanted, tokens=tokens, output=output, progress=True)
    except KeyboardInterrupt:
        say(f"{kept} keeps what was done; the same command resumes there.")
        raise
    _show(lens)
    note(f"wrote {output}")
    _write_chart(lens, chart)


@app.command(cls=Verb)
def show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A lens file, or a hub id with or without @revision.")],
    chart: Chart = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, schema dola.lens/1.")] = False,
) -> None:
    """Print what a lens was fitted on, and how well it reads each layer.

    \b
    Examples:
      dola lens show smollm2.lens.safetensors
      dola lens show smollm2.lens.safetensors --json
      dola lens show smollm2.lens.safetensors --chart layers.svg
      dola lens show owner/name@main
    """
    from dola.lens.lens import Lens

    _check_chart(chart)
    lens = Lens.load(file)
    if json:
        print_json(SCHEMA_NAME, _fields(lens))
    else:
        _show(lens)
    _write_chart(lens, chart)


@app.command("import", cls=Verb)
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with config.json and params.pt.")],
    output: Output,
) -> None:
    """Convert a tuned lens of the tuned-lens package to a lens file.

    Its maps are added to a layer's state, and the final norm follows (arXiv 2303.08112).

    \b
    Examples:
      dola lens import lens/meta-llama/Llama-2-7b-hf --output llama2.lens.safetensors
      dola lens import lens/gpt2 --output gpt2.lens.safetensors
      dola generate "The capital of Washington State is" -m gpt2 --lens gpt2.lens.safetensors
    """
    from dola.lens.tuned import read_tuned

    evaluation.check_writable({"--output": output})
    lens = read_tuned(folder)
    lens.save(output)
    _show(lens)
    note(f"wrote {output}")


def _check_chart(path: Path | None) -> None:
    """Refuse a chart that could not be written, before anything is done."""
    if path is not None:
        from dola.bench.chart import check_chart

        check_chart(path)


def _write_chart(lens: Lens, path: Path | None) -> None:
    """Draw the quality table.

    Raises:
        UsageError: The lens has none.
    """
    if path is None:
        return
    found = _fields(lens)
    if not found["table"]:
        raise UsageError(
            f"The lens of {lens.model} has no table of its layers: nobody judged it.",
            hint="fit one: dola lens fit MODEL --output FILE",
        )
    from dola.plot.lens import save_chart

    title = f"{lens.model}, {found['dtype']}: {found['kind']} lens, {found['tokens']} tokens, {found['held_out']} held out"
    save_chart(found["table"], title, path)
    note(f"wrote {path}")


def _fields(lens: Lens) -> dict[str, Any]:
    known = ("model", "revision", "num_layers", "dtype", "tokens", "held_out", "text", "text_sha256")
    facts = {name: lens.facts.get(name) for name in known}
    head = {"kind": lens.kind, "layers": list(lens.layers), "width": lens.width}
    return {**head, **facts, "table": lens.facts.get("table") or []}


def _show(lens: Lens) -> None:
    """Print a lens: what it is, a table of its layers, and a bar for each layer's R² or agreement."""
    found, console = _fields(lens), stdout()

    def line(name: str, value: object) -> None:
        console.print(f"{name:9} {value}", soft_wrap=True, markup=False, highlight=False)

    line("kind", lens.kind)
    line("model", f"{lens.model}, {found['num_layers']} layers of width {lens.width}, {found['dtype'] or 'unknown dtype'}")
    line("layers", spelled(lens.layers))
    line("text", f"{found['text']}, {found['tokens'] or 'an unknown number of'} tokens, {found['held_out'] or 0} held out")
    if not found["table"]:
        return
    line("", "")
    line("layer", "  R²     KL  top-1 | norm: KL  top-1")
    for row in found["table"]:
        r2 = "    " if row["r2"] is None else f"{row['r2']:.2f}"
        bar = "█" * round(BAR * max(0.0, row["top1"]))
        numbers = f"{r2} {row['kl']:6.2f}  {row['top1']:5.1%} | {row['norm_kl']:8.2f}  {row['norm_top1']:5.1%}"
        line(f"{row['layer']:5}", f"{numbers}  {bar}")
