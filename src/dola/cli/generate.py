"""`dola generate`: complete prompts with DoLa, or without."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dola.cli import backends, options, prompt_files
from dola.cli.answer_file import AnswerFile
from dola.cli.decoding import Decoding
from dola.cli.generate_run import Run
from dola.cli.prompts import read_prompts
from dola.errors import UsageError
from dola.methods.names import RECOMMENDED_PENALTY

SCHEMA_NAME = "dola.generate/1"
SCHEMA = {
    "model": "--model as given",
    "index": "number of the prompt, counted from 0",
    "prompt": "the prompt, before any chat template",
    "fields": "the other fields of its object in a JSON file, or columns of its row in a table",
    "text": "the completion alone, without special tokens",
    "token_ids": "its tokens, including the one that ended it",
    "finish_reason": '"stop": an end token or a stop string of the model ended it; "length": --max-new-tokens did',
    "prompt_tokens": "length of the prompt, including the chat template",
    "timings.load_seconds": "seconds for loading the model, once for all prompts",
    "timings.generate_seconds": "seconds for the prompt's batch, including the prompts' forward pass",
    "timings.tokens_per_second": "new tokens of that batch per second",
    "timings.batch": "number of prompts in that batch",
    "settings.layers": 'the layers used: --layers, or those of the model\'s generation config; "off" means without DoLa',
    "settings.candidate_layers": "the candidate layers of these settings in this model; null without DoLa",
    **options.documented("settings", "of DoLa; null without it"),
    "settings.repetition_penalty": "repetition penalty; 1.0 means off",
    "settings.max_new_tokens": "maximum length of an answer",
    "settings.sample": "whether tokens were sampled",
    "settings.temperature": "sampling temperature; null without sampling",
    "settings.top_p": "share of probability to sample from; null without sampling",
    "settings.seed": "sampling seed, null without sampling. The batch that begins with prompt n uses this seed plus n",
    "settings.chat": "whether the chat template was used",
    "settings.backend": "--backend as given",
    "settings.dtype": "dtype of the weights",
    "settings.device": "device of the weights",
    "settings.batch_size": "prompts at a time",
}
"""Fields of `dola generate --json`: one object per prompt, each on its own line. `--output FILE` writes the same lines."""

BATCH_SIZE = 8


@options.method_options(layers=options.OwnLayers, reference=True)
def command(
    prompt: Annotated[
        str | None, typer.Argument(help="The text to complete, or the message to answer; - reads standard input.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='File of prompts: one on each line; JSON (lines or an array) with a "prompt"; .csv or .tsv.'),
    ] = None,
    prompt_field: Annotated[
        str | None,
        typer.Option(help="Field or column of --file with the prompts.", show_default=prompt_files.FIELD),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write JSON lines to this file. Re-run the command to resume after an interruption.")
    ] = None,
    model: options.Model = "smollm2",
    chat: options.Chat = None,
    dola: options.MethodOptions = options.DEFAULTS,
    sample: Annotated[bool, typer.Option("--sample", help="Sample tokens instead of taking the best.")] = False,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature: below 1 is more conservative, above 1 more varied.",
            show_default="1",
            callback=options.between(0.01),
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the likeliest tokens that sum to this.", show_default="1", callback=options.between(0, 1)
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Sampling seed.", show_default="a new one, shown by --json", callback=options.between(0, 2**63 - 1)),
    ] = None,
    max_new_tokens: options.MaxNewTokens = 100,
    repetition_penalty: options.RepetitionPenalty = RECOMMENDED_PENALTY,
    batch_size: Annotated[
        int | None, typer.Option(help="Prompts of --file at a time.", show_default=str(BATCH_SIZE), callback=options.between(1))
    ] = None,
    backend: backends.BackendOption = backends.Name.torch,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    config: options.ConfigFile = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Complete a prompt, or each prompt of a file, with DoLa.

    Prints only the completion; on a terminal, token by token.

    \b
    Examples:
      dola generate "The capital of Washington State is"
      dola generate --file questions.jsonl --output answers.jsonl --layers low
      cat letter.txt | dola generate --no-chat --sample --temperature 0.7
    """
    method = dola.config()
    _check_sampling(sample, {"--temperature": temperature, "--top-p": top_p, "--seed": seed})
    if json and output is not None:
        raise UsageError(
            "--output and --json exclude each other: one writes JSON lines to a file, the other prints them.",
            hint="give one of them",
        )
    if batch_size is not None and file is None:
        raise UsageError("--batch-size needs --file: it sets how many prompts run at a time.", hint="omit --batch-size")
    prompts = read_prompts(prompt, file, field=prompt_field)
    answers = AnswerFile(output, SCHEMA_NAME) if output is not None else None
    if sample and seed is None:
        inherited = answers.seed if answers is not None else None
        seed = secrets.randbelow(2**31) if inherited is None else inherited
    decoding = Decoding(
        max_new_tokens,
        repetition_penalty,
        sample,
        1.0 if temperature is None else temperature,
        1.0 if top_p is None else top_p,
        seed,
    )
    start = time.perf_counter()
    loaded = backends.load(backend, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    load_seconds = time.perf_counter() - start
    method, named = loaded.settle_layers(method, dola.layers)
    run = Run(
        backend=loaded,
        name=model,
        layers=named,
        config=method,
        decoding=decoding,
        chat=loaded.uses_chat(chat),
        batch_size=batch_size or BATCH_SIZE,
        prompts=prompts,
        load_seconds=load_seconds,
    )
    if answers is not None:
        run.to_file(answers)
    else:
        run.to_stdout(SCHEMA_NAME, json=json, stream=file is None)


def _check_sampling(sample: bool, given: dict[str, Any]) -> None:
    named = [flag for flag, value in given.items() if value is not None]
    if named and not sample:
        raise UsageError(
            f"{' and '.join(named)} {'are' if len(named) > 1 else 'is'} for sampling, but decoding is greedy without --sample.",
            hint=f"add --sample, or omit {' and '.join(named)}",
        )
