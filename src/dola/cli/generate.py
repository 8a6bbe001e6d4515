"""`dola generate`: complete prompts with DoLa, or without."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dola.cli import options, prompt_files
from dola.cli.answer_file import AnswerFile
from dola.cli.decoding import Decoding, uses_chat
from dola.cli.generate_run import Run
from dola.cli.prompts import read_prompts
from dola.errors import UsageError
from dola.methods.names import RECOMMENDED_PENALTY

SCHEMA_NAME = "dola.generate/1"
SCHEMA = {
    "model": "--model as given",
    "index": "number of the prompt, from 0",
    "prompt": "the prompt, before any chat template",
    "fields": "the other fields of its object in a JSON file, or columns of its row in a table",
    "text": "the completion alone, without special tokens",
    "token_ids": "its tokens, with the one that ended it",
    "finish_reason": '"stop": an end token or a stop string of the model ended it; "length": --max-new-tokens did',
    "prompt_tokens": "length of the prompt, chat template included",
    "timings.load_seconds": "loading the model, once for all prompts",
    "timings.generate_seconds": "the batch that the prompt was in, the prompts' own forward included",
    "timings.tokens_per_second": "new tokens of that batch per second",
    "timings.batch": "how many prompts were in that batch",
    "settings.layers": 'the layers used: --layers, or those of the model\'s generation config; "off" is without DoLa',
    "settings.candidate_layers": "the layers that this means in this model; null without DoLa",
    **options.documented("settings", "of DoLa; null without it"),
    "settings.repetition_penalty": "1.0 is none",
    "settings.max_new_tokens": "length of an answer, at most",
    "settings.sample": "whether tokens were drawn",
    "settings.temperature": "of sampling; null without it",
    "settings.top_p": "of sampling; null without it",
    "settings.seed": "of sampling; null without it. The first batch has this seed, one that begins with prompt n this plus n",
    "settings.chat": "whether the chat template was used",
    "settings.dtype": "of the weights",
    "settings.device": "where the weights were",
    "settings.batch_size": "prompts at a time",
}
"""Fields of `dola generate --json`: an object for each prompt, on a line of its own. `--output FILE` writes the same lines."""

BATCH_SIZE = 8


@options.method_options(layers=options.OwnLayers, reference=True)
def command(
    prompt: Annotated[
        str | None, typer.Argument(help="The text to complete, or the message to answer; - reads standard input.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='Prompts from a file: one on each line; JSON (lines or an array) with a "prompt"; .csv or .tsv.'),
    ] = None,
    prompt_field: Annotated[
        str | None,
        typer.Option(help="Field or column of --file that holds the prompts.", show_default=prompt_files.FIELD),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write JSON lines to this file. Interrupted, the same command goes on where it ended.")
    ] = None,
    model: options.Model = "smollm2",
    chat: options.Chat = None,
    dola: options.MethodOptions = options.DEFAULTS,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens, rather than taking the best.")] = False,
    temperature: Annotated[
        float | None,
        typer.Option(help="Of sampling; below 1 is tamer, above 1 wilder.", show_default="1", callback=options.between(0.01)),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw from the likeliest tokens that sum to this.", show_default="1", callback=options.between(0, 1)),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of sampling.", show_default="a new one, shown by --json", callback=options.between(0, 2**63 - 1)),
    ] = None,
    max_new_tokens: options.MaxNewTokens = 100,
    repetition_penalty: options.RepetitionPenalty = RECOMMENDED_PENALTY,
    batch_size: Annotated[
        int | None, typer.Option(help="Prompts of a file at a time.", show_default=str(BATCH_SIZE), callback=options.between(1))
    ] = None,
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
            "--output writes JSON lines to a file and --json prints them; both were given.", hint="give one of them"
        )
    if batch_size is not None and file is None:
        raise UsageError("--batch-size is for the prompts of a file, and there is no --file.", hint="leave --batch-size out")
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
    loaded, tokenizer = options.load_model(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    load_seconds = time.perf_counter() - start
    method, named = options.settle_layers(method, dola.layers, loaded)
    run = Run(
        model=loaded,
        tokenizer=tokenizer,
        name=model,
        layers=named,
        config=method,
        decoding=decoding,
        chat=uses_chat(tokenizer, chat),
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
            f"{' and '.join(named)} {'are' if len(named) > 1 else 'is'} for sampling, and decoding is greedy without --sample.",
            hint=f"add --sample, or leave {' and '.join(named)} out",
        )
