"""The `dola` command as a process, and tiny models with a tokenizer in a folder for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from families import VOCAB, tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from dola.cli import main; main()"]
TEMPLATE = "{% for message in messages %}<user>{{ message['content'] }}<answer>{% endfor %}"


class Ended(NamedTuple):
    """How a run ended, and what it wrote."""

    code: int
    out: str
    err: str


def environment(**settings: str) -> dict[str, str]:
    """This process's environment for one that runs the command."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **settings}


def heed_ctrl_c() -> None:
    """In a child, before it becomes the command (preexec_fn): Ctrl-C is not ignored.

    A shell that runs tests in the background (`make test &`, nohup) starts them with SIGINT ignored, and what is ignored
    stays so over exec: Python would then install no handler for Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def dola_process(*arguments: Any, env: dict[str, str] | None = None, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `dola ...` in a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(**(env or {})), **settings)


def tokenizer(**settings: Any) -> Any:
    """A byte-level tokenizer: any text goes in, and comes out as it was."""
    special = ["<pad>", "<s>", "</s>", "<user>", "<answer>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator([Path(__file__).read_text()], trainer)
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": special[3:]}
    return PreTrainedTokenizerFast(tokenizer_object=core, **{**named, **settings})


def save(folder: Path, *, template: str | None = TEMPLATE, eos: Any = None, **settings: Any) -> Path:
    """A tiny llama and its tokenizer in a folder. Without `eos` it never ends by itself."""
    model, made = tiny("llama"), tokenizer(**settings)
    model.generation_config.eos_token_id = eos
    made.chat_template = template
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def fields(result: dict[str, Any], path: str = "") -> set[str]:
    """The fields of a JSON result as the verbs' SCHEMA names them, without the two that every result has."""
    found = set()
    for name, value in result.items():
        if isinstance(value, dict) and value:
            found |= fields(value, f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            found |= set().union(*(fields(each, f"{path}{name}[].") for each in value))
        else:
            found.add(path + name)
    return found - {"schema", "dola"}
