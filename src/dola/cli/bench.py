"""`dola bench`: the cost of DoLa on this machine, compared with plain greedy decoding and the code of transformers 4."""

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
    "machine.date": "date and time, UTC, ISO 8601",
    "machine.processor": "name of the CPU",
    "machine.cores": "CPU cores that the process may use",
    "machine.threads": "threads that torch uses",
    "machine.accelerator": "name of the GPU, or null",
    "machine.system": "operating system",
    "machine.versions": "versions of python, torch, transformers and dola",
    "machine.environment": "environment variables that change speed and are set",
    "model.name": "value of --model or --random-weights",
    "model.random_weights": "whether the weights are random",
    "model.class": "class of the model",
    "model.dtype": "dtype of its weights",
    "model.device": "device of the model",
    "model.parameters": "number of parameters",
    "model.blocks": "number of blocks, N; N is the mature layer",
    "model.hidden_size": "width of the residual stream",
    "model.vocabulary": "size of the vocabulary",
    "model.candidate_layers": "candidate premature layers (0 is the embedding output)",
    "settings.dola": "the DoLaConfig, field by field",
    "settings.new_tokens": "tokens of each generation",
    "settings.repeats": "timed repetitions",
    "settings.cache": "dynamic or static",
    "settings.compile": "whether decoding steps were compiled",
    "settings.prompt_lookup": "tokens drafted at a time from the prompt; 0 means none",
    "settings.repetition_penalty": "repetition penalty of all ways",
    "settings.old": "whether the old code was timed",
    "settings.memory": "whether peak memory was measured",
    "schedule": "in turns, or in blocks (compiled code)",
    "cases[].name": "name of the case",
    "cases[].batch_size": "rows",
    "cases[].prompt_tokens": "tokens of each prompt",
    "cases[].new_tokens": "tokens generated for each row",
    "cases[].ways[].way": "greedy, dola, old (as transformers 4.55.4), greedy+lookup, dola+lookup, greedy again (the noise)",
    "cases[].ways[].first_call_s": "seconds of the very first call, including warm-up and compilation",
    "cases[].ways[].first_token_s": "seconds to the end of the first step: min, median, max over repetitions",
    "cases[].ways[].token_s": "seconds per token after the first step: min, median, max",
    "cases[].ways[].total_s": "seconds of the whole call: min, median, max",
    "cases[].ways[].tokens_per_s": "tokens of all rows per second after the first step, median",
    "cases[].ways[].forwards": "forward passes of the model in one generation",
    "cases[].ways[].first_token_ratio": "relative to greedy in the same repetition: min, median, max; null for greedy",
    "cases[].ways[].token_ratio": "relative to greedy in the same repetition: min, median, max; null for greedy",
    "cases[].ways[].total_ratio": "relative to greedy in the same repetition: min, median, max; null for greedy",
    "cases[].ways[].memory": "peak_bytes and before_bytes of one generation, including the model, and the method; or null",
    "cases[].ways[].memory_ratio": "peak relative to greedy's peak, or null",
    "cases[].ways[].differing_prompts": "repetitions whose tokens differ from those without prompt lookup; null without it",
    "cases[].ways[].first_difference": "earliest new token that differs (0 is the first), or null",
    "summary[].way": "each way except greedy",
    "summary[].cases": "number of cases",
    "summary[].first_token_ratio": "min, median, max over cases of the median ratio",
    "summary[].token_ratio": "min, median, max over cases of the median ratio",
    "summary[].total_ratio": "min, median, max over cases of the median ratio",
    "summary[].memory_ratio": "min, median, max over cases, or null",
}
"""Fields of `--json`, schema dola.bench/1."""


def command(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A hub id, a folder, a .gguf file, or an alias; smollm2 by default.")
    ] = "",
    random_weights: Annotated[
        str, typer.Option(metavar="SHAPE", help="Random weights instead of --model: llama-3-8b, qwen3-8b, llama-3.2-1b, tiny.")
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
        typer.Option(help="mixed (default), copy (answers repeat their context), or a file of prompts separated by ---."),
    ] = "",
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes to measure, each with each prompt length.")] = "1",
    prompt_lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens, or whole for uncut prompts.")] = "",
    new_tokens: Annotated[int, typer.Option(help="Tokens of each generation.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed runs of each way of decoding.")] = 5,
    cache: Annotated[str, typer.Option(help="dynamic or static.")] = "dynamic",
    compile: Annotated[bool, typer.Option("--compile/--no-compile", help="Compile decoding; needs --cache static.")] = False,
    prompt_lookup: Annotated[int, typer.Option(help="Tokens to draft from the prompt, as extra ways; 0 = off.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Repetition penalty of all ways (1 = off).")] = 1.0,
    threads: Annotated[int, typer.Option(help="Number of torch threads; 0 keeps torch's default.")] = 0,
    old: Annotated[bool, typer.Option("--old/--no-old", help="Also time the code of transformers 4.")] = True,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Also measure peak memory.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, schema dola.bench/1.")] = False,
    chart: Annotated[Path | None, typer.Option(help="Write a chart: .png, .svg or .pdf.")] = None,
) -> None:
    """Measure what DoLa costs, next to greedy decoding.

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
        dola=named_config(layers, method, set_),  # which checks the options
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
                f"{flag} {given} and --random-weights {random_weights} exclude each other: random weights have no {flag[2:]}.",
                hint=f"omit {flag} or --random-weights",
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
    """The cases: every batch size with every prompt length, or the whole prompts if no lengths are given."""
    from dola.bench.cases import cut_case, random_case, read_texts, texts, whole_cases
    from dola.text.encoding import Encoder

    batches = min(repeats, 4)  # several prompts for one row of the table, used equally often, give or take one
    shapes = [{"batch_size": size, "length": length, "batches": batches} for size in sizes for length in lengths]
    if loaded.tokenizer is None:
        return [random_case(loaded.model.config.vocab_size, **shape) for shape in shapes]
    encoder = Encoder.of(loaded.model, loaded.tokenizer)
    found = texts(prompts) if prompts in ("mixed", "copy") else read_texts(Path(prompts))
    if not lengths:
        return whole_cases(encoder, found)
    return [cut_case(encoder, found, **shape) for shape in shapes]


def _lengths(prompts: str, given: str, random_weights: bool) -> list[int]:
    """Prompt lengths. None means whole prompts, which is the default for all prompts except the mixed ones."""
    from dola.errors import ConfigError

    if given == "whole" and random_weights:
        raise ConfigError(
            "--prompt-lengths whole does not work with random weights, which have no text.", hint="use --prompt-lengths 64,1024"
        )
    if given == "whole" or (not given and prompts != "mixed" and not random_weights):
        return []
    return _numbers("--prompt-lengths", given or "64,512")


def _check_whole(sizes: list[int], lengths: list[int]) -> None:
    from dola.errors import ConfigError

    if not lengths and sizes != [1]:
        raise ConfigError(
            f"--batch-sizes {','.join(map(str, sizes))} does not work with whole prompts: their lengths differ, and the old "
            "code is timed without padding.",
            hint="cut them to a length: --prompt-lengths 64",
        )


def _numbers(option: str, given: str) -> list[int]:
    """Whole numbers above 0, separated by commas."""
    from dola.errors import ConfigError

    try:
        numbers = [int(part) for part in given.split(",")]
    except ValueError:
        raise ConfigError(
            f"{option} {given!r} is not a list of whole numbers separated by commas.", hint=f"write {option} 1,4"
        ) from None
    for number in numbers:
        _check_positive(option, number)
    return numbers


def _check_positive(option: str, number: int) -> None:
    from dola.errors import ConfigError

    if number < 1:
        raise ConfigError(f"{option} {number} is out of range; the minimum is 1.", hint=f"write {option} 1")


def _say_unused(model: Any) -> None:
    """Report the settings of the model's own generation config: all ways are timed without them."""
    from dola.decoding.as_asked import own_config
    from dola.model.generation_fields import review, shown

    found = review(own_config(model))
    asked = {**found.kept, **found.option, **found.aside, **found.refused, **found.unknown}
    listed = [shown(name, value) for name, value in asked.items() if not name.endswith("token_id") and name != "dola_layers"]
    if listed:
        _say(f"Timed without these settings of the model's generation config: {', '.join(listed)}.")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
