"""`dola bench`: what DoLa costs on this machine, against plain greedy decoding and against the code of transformers 4."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli.options import Method, Set, TrustRemoteCode, is_dola, named_config, settle_layers

if TYPE_CHECKING:
    from dola.bench.cases import Case
    from dola.bench.results import BenchResult
    from dola.loading.models import LoadedModel

SCHEMA: dict[str, str] = {
    "machine.date": "when, UTC, ISO 8601",
    "machine.processor": "name of the CPU",
    "machine.cores": "CPU cores that the process may use",
    "machine.threads": "threads that torch uses",
    "machine.accelerator": "name of the GPU, or null",
    "machine.system": "operating system",
    "machine.versions": "versions of python, torch, transformers and dola",
    "machine.environment": "environment variables that change speed, where they are set",
    "model.name": "what was given as --model or --random-weights",
    "model.random_weights": "whether the weights are random",
    "model.class": "class of the model",
    "model.dtype": "dtype of its weights",
    "model.device": "device it was on",
    "model.parameters": "number of parameters",
    "model.blocks": "number of blocks, N; N is the mature layer",
    "model.hidden_size": "width of the residual stream",
    "model.vocabulary": "size of the vocabulary",
    "model.candidate_layers": "candidate premature layers (0 is the embedding output)",
    "settings.dola": "the DoLaConfig, field by field",
    "settings.new_tokens": "tokens that each generation makes",
    "settings.repeats": "timed repetitions",
    "settings.cache": "dynamic or static",
    "settings.compile": "whether decoding steps were compiled",
    "settings.prompt_lookup": "tokens drafted at a time from the prompt, 0 for none",
    "settings.repetition_penalty": "on all sides",
    "settings.old": "whether the old code was timed",
    "settings.memory": "whether peak memory was measured",
    "schedule": "in turns, or in blocks (compiled code)",
    "cases[].name": "what was decoded",
    "cases[].batch_size": "rows",
    "cases[].prompt_tokens": "tokens of each prompt",
    "cases[].new_tokens": "tokens made for each row",
    "cases[].ways[].way": "greedy, dola, old (as transformers 4.55.4), greedy+lookup, dola+lookup",
    "cases[].ways[].first_call_s": "seconds of the very first call, warm-up and compilation included",
    "cases[].ways[].first_token_s": "seconds to the end of the first step: min, median, max over repetitions",
    "cases[].ways[].token_s": "seconds per token after the first step: min, median, max",
    "cases[].ways[].total_s": "seconds of the whole call: min, median, max",
    "cases[].ways[].tokens_per_s": "tokens of all rows per second after the first step, median",
    "cases[].ways[].forwards": "forwards of the model in one generation",
    "cases[].ways[].first_token_ratio": "over greedy in the same repetition: min, median, max; null for greedy",
    "cases[].ways[].token_ratio": "over greedy in the same repetition: min, median, max; null for greedy",
    "cases[].ways[].total_ratio": "over greedy in the same repetition: min, median, max; null for greedy",
    "cases[].ways[].memory": "peak_bytes and before_bytes of one generation, the model included, and the method; or null",
    "cases[].ways[].memory_ratio": "peak over greedy's peak, or null",
    "cases[].ways[].differing_prompts": "repetitions whose tokens differ from those without prompt lookup; null without it",
    "cases[].ways[].first_difference": "earliest new token that differs (0 is the first), or null",
    "summary[].way": "each way but greedy",
    "summary[].cases": "number of cases",
    "summary[].first_token_ratio": "min, median, max over cases of the median ratio",
    "summary[].token_ratio": "min, median, max over cases of the median ratio",
    "summary[].total_ratio": "min, median, max over cases of the median ratio",
    "summary[].memory_ratio": "min, median, max over cases, or null",
}
"""Fields of `--json`, schema dola.bench/1."""


def command(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A hub id, a folder, a .gguf file, or an alias: smollm2 unless given.")
    ] = "",
    random_weights: Annotated[
        str, typer.Option(metavar="SHAPE", help="Instead of --model, random weights: llama-3-8b, qwen3-8b, llama-3.2-1b, tiny.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    layers: Annotated[
        str | None,
        typer.Option(
            help="high, low, all, or layer numbers: 8,16,24.",
            show_default="dola_layers of the model's generation config, else high",
        ),
    ] = None,
    method: Method = None,
    set_: Set = None,
    trust_remote_code: TrustRemoteCode = False,
    prompts: Annotated[
        str,
        typer.Option(help="mixed (unless given), copy (answers that repeat their context), or a file, prompts parted by ---."),
    ] = "",
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes to measure, each with each prompt length.")] = "1",
    prompt_lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens, or whole: prompts as they are.")] = "",
    new_tokens: Annotated[int, typer.Option(help="Tokens that each generation makes.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed runs of each way of decoding.")] = 5,
    cache: Annotated[str, typer.Option(help="dynamic or static.")] = "dynamic",
    compile: Annotated[bool, typer.Option("--compile/--no-compile", help="Compile decoding; needs --cache static.")] = False,
    prompt_lookup: Annotated[int, typer.Option(help="Also with so many tokens drafted from the prompt; 0 is off.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="On all sides.")] = 1.0,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves it alone.")] = 0,
    old: Annotated[bool, typer.Option("--old/--no-old", help="Time the code of transformers 4 too.")] = True,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, schema dola.bench/1.")] = False,
    chart: Annotated[Path | None, typer.Option(help="Write a chart: .png, .svg or .pdf.")] = None,
) -> None:
    """Measure what DoLa costs on this machine, next to greedy decoding.

    \b
    Examples:
      dola bench
      dola bench --dtype bfloat16 --prompt-lengths 64,1024 --batch-sizes 1,8
      dola bench --random-weights llama-3.2-1b --chart cost.svg
    """
    from dola.bench.source import Source
    from dola.bench.ways import Settings

    _check_source(model, random_weights, prompts)
    prompts = prompts or "mixed"
    source = Source(random_weights or model or "smollm2", dtype, device, bool(random_weights), trust_remote_code)
    settings = Settings(
        dola=named_config(layers, method, set_),  # which judges what it is given
        new_tokens=new_tokens,
        repeats=repeats,
        cache=cache,
        compile=compile,
        prompt_lookup=prompt_lookup,
        repetition_penalty=repetition_penalty,
        old=old and is_dola(method),
        memory=memory,
    )
    sizes, lengths = _numbers("--batch-sizes", batch_sizes), _lengths(prompts, prompt_lengths, bool(random_weights))
    _check_whole(sizes, lengths)
    result = _measured(source, settings, (prompts, sizes, lengths), layers, threads, chart)
    if json:
        from dola.cli.output import print_json

        print_json("dola.bench/1", result.to_json())
    else:
        from dola.bench.table import render
        from dola.cli.output import stdout

        render(stdout(), result)


def _check_source(model: str, random_weights: str, prompts: str) -> None:
    from dola.errors import UsageError

    for flag, given in (("--model", model), ("--prompts", prompts)):
        if random_weights and given:
            raise UsageError(
                f"{flag} {given} and --random-weights {random_weights} were both given, and random weights read no {flag[2:]}.",
                hint=f"leave {flag} or --random-weights out",
            )


def _measured(
    source: Any, settings: Any, asked: tuple[str, list[int], list[int]], layers: str | None, threads: int, chart: Path | None
) -> BenchResult:
    """Load, measure, and write the chart; progress goes to stderr."""
    import torch

    from dola.bench.chart import check_chart, save_chart
    from dola.bench.measure import measure

    if chart is not None:
        check_chart(chart)
    if threads:
        _check_positive("--threads", threads)
        torch.set_num_threads(threads)
    from dola.cli.output import loading, quiet_libraries

    with loading(source.model) as progress:
        quiet_libraries()
        loaded = source.load(progress)
    settings = replace(settings, dola=settle_layers(settings.dola, layers, loaded.model)[0])
    _say_unused(loaded.model)
    result = measure(loaded.model, _cases(loaded, *asked, settings.repeats), settings, source=source, progress=_say)
    if chart is not None:
        save_chart(result, chart)
        _say(f"wrote {chart}")
    return result


def _cases(loaded: LoadedModel, prompts: str, sizes: list[int], lengths: list[int], repeats: int) -> list[Case]:
    """What is decoded: every batch size with every prompt length, or the prompts as they are where there are no lengths."""
    from dola.bench.cases import cut_case, random_case, read_texts, texts, whole_cases
    from dola.text.encoding import Encoder

    batches = min(repeats, 4)  # several prompts for one row of the table, each as often as the others or once less
    shapes = [{"batch_size": size, "length": length, "batches": batches} for size in sizes for length in lengths]
    if loaded.tokenizer is None:
        return [random_case(loaded.model.config.vocab_size, **shape) for shape in shapes]
    encoder = Encoder.of(loaded.model, loaded.tokenizer)
    found = texts(prompts) if prompts in ("mixed", "copy") else read_texts(Path(prompts))
    if not lengths:
        return whole_cases(encoder, found)
    return [cut_case(encoder, found, **shape) for shape in shapes]


def _lengths(prompts: str, given: str, random_weights: bool) -> list[int]:
    """Prompt lengths; none means the prompts as they are, which is the rule for everything but the mixed ones."""
    from dola.errors import ConfigError

    if given == "whole" and random_weights:
        raise ConfigError("--prompt-lengths whole with random weights: there is no text.", hint="use --prompt-lengths 64,1024")
    if given == "whole" or (not given and prompts != "mixed" and not random_weights):
        return []
    return _numbers("--prompt-lengths", given or "64,512")


def _check_whole(sizes: list[int], lengths: list[int]) -> None:
    from dola.errors import ConfigError

    if not lengths and sizes != [1]:
        raise ConfigError(
            f"--batch-sizes {','.join(map(str, sizes))} with whole prompts: they differ in length, and the old code is timed "
            "without padding.",
            hint="cut them to a length: --prompt-lengths 64",
        )


def _numbers(option: str, given: str) -> list[int]:
    """Whole numbers above 0, parted by commas."""
    from dola.errors import ConfigError

    try:
        numbers = [int(part) for part in given.split(",")]
    except ValueError:
        raise ConfigError(
            f"{option} {given!r} is no list of whole numbers parted by commas.", hint=f"write {option} 1,4"
        ) from None
    for number in numbers:
        _check_positive(option, number)
    return numbers


def _check_positive(option: str, number: int) -> None:
    from dola.errors import ConfigError

    if number < 1:
        raise ConfigError(f"{option} {number} is out of range; 1 is the least.", hint=f"write {option} 1")


def _say_unused(model: Any) -> None:
    """Say what the model's own generation config asks for: all ways are timed without it."""
    from dola.decoding.as_asked import own_config
    from dola.model.generation_fields import review, shown

    found = review(own_config(model))
    asked = {**found.kept, **found.option, **found.aside, **found.refused, **found.unknown}
    listed = [shown(name, value) for name, value in asked.items() if not name.endswith("token_id") and name != "dola_layers"]
    if listed:
        _say(f"Timed without what the model's generation config asks for: {', '.join(listed)}.")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
