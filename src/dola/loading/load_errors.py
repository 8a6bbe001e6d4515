"""Turns exceptions of `from_pretrained` into dola's errors, with a cause and a hint.

`from_pretrained` reports a user's mistakes with OSError, ValueError, RuntimeError, KeyError or a bare Exception, and bugs with
the same types. Only its messages distinguish them. This is the only module that interprets messages of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from dola.errors import DolaError, MissingExtraError, ModelError, ModelFileError
from dola.installed.hints import pip_install
from dola.loading.embedded import EMBEDDED


class Known(NamedTuple):
    """A failure that is recognized by transformers' message.

    Attributes:
        said: A part of transformers' message, in versions 5.0.0 to 5.23.0.
        kind: The class of dola's error.
        message, hint: Texts of dola's error. `{source}` is the model, `{line}` the first line of transformers' message,
            `{upgrade}` and `{old_tokenizers}` are install commands.
    """

    said: str
    kind: type[DolaError]
    message: str
    hint: str


KNOWN = (
    Known(
        "trust_remote_code=True",
        ModelFileError,
        "{source!r} contains its own Python code, which runs only if you allow it.",
        "read that code first; if you trust it, pass trust_remote_code=True (on the command line: --trust-remote-code)",
    ),
    Known(
        "Weights only load failed",
        ModelFileError,
        "The weights of {source!r} are a pickle that torch cannot read or that holds more than tensors. None of it was run.",
        "use a copy of the model with safetensors: a pickle can hold code",
    ),
    Known(
        "gated repo",
        ModelFileError,
        "{source!r} is gated: its owner grants access on request, and the hub did not recognize you as having it.",
        "ask for access at https://huggingface.co/{source}, then run `hf auth login` or set HF_TOKEN",
    ),
    Known(
        "is not a valid model identifier",
        ModelFileError,
        "The hub has no model {source!r}, or it is private.",
        "check the spelling; for a private model run `hf auth login` or set HF_TOKEN",
    ),
    Known(
        "is not a valid git identifier",
        ModelFileError,
        "{source!r} does not have that revision: {line}",
        "https://huggingface.co/{source}/tree/main lists the revisions",
    ),
    Known(
        "couldn't connect to",
        ModelFileError,
        "{source!r} is not in the hub's cache on this machine, and the hub cannot be reached.",
        "check the name and the network, and that HF_HUB_OFFLINE is not set; {names}",
    ),
    Known(
        "does not recognize this architecture",
        ModelError,
        "The installed transformers does not know the architecture of {source!r}: {line}",
        "{upgrade}",
    ),
    Known(
        "for this kind of AutoModel",
        ModelError,
        "{source!r} does not hold a causal language model (perhaps an encoder-decoder): {line}",
        "DoLa contrasts the layers of decoder-only models; use one that AutoModelForCausalLM loads",
    ),
    Known(
        "Should have a `model_type` key",
        ModelFileError,
        "The config.json of {source!r} does not name an architecture (`model_type`).",
        "fetch the model again, config.json included",
    ),
    Known(
        "instantiate the backend tokenizer",
        ModelFileError,
        "{source!r} does not hold a tokenizer that can be read.",
        "put the tokenizer's files next to the weights; old ones (tokenizer.model) need: {old_tokenizers}",
    ),
    Known(
        "does not support prompt learning",
        ModelFileError,
        "{source!r} is an adapter that puts learned vectors before the prompt. Only adapters of weights can be loaded.",
        "use an adapter that changes the weights, such as LoRA",
    ),
    Known(
        "automatic conversion of the weights",
        ModelFileError,
        "The weights of {source!r} cannot be converted to transformers' layout: some are missing (perhaps an expert's), or "
        "their shapes differ from those in config.json.",
        "the file is incomplete, or it does not belong to this config.json: fetch both again",
    ),
)


LFS, LARGEST_POINTER = b"version https://git-lfs", 1024
"""How a Git LFS pointer starts, and a size in bytes that no pointer reaches."""


@contextmanager
def in_our_words(part: str, source: str, gguf: Path | None, *, ours: bool = False) -> Iterator[None]:
    """Raise dola's errors for known failures inside, where one part of a model is loaded.

    With `ours`, the arguments have been checked, so that any other failure must come from the model's files.
    """
    try:
        yield
    except DolaError:
        raise
    except Exception as error:
        words = translate(error, part, source, gguf)
        if words is None and ours and not _is_out_of_memory(error):
            words = _not_understood(error, part, source)
        if words is not None:
            raise words from error
        raise


def translate(error: Exception, part: str, source: str, gguf: Path | None = None) -> DolaError | None:
    """dola's error for an exception of `from_pretrained`, or None for a wrong argument or a bug, which nothing should hide.

    Args:
        error: What was raised.
        part: What was being loaded: "tokenizer", "config.json", "model" or "adapter".
        source: The hub id or folder.
        gguf: The GGUF file, if it is one.
    """
    line = first_line(error)
    if (pointer := _lfs_pointer(source)) is not None:
        return ModelFileError(f"{pointer} is a Git LFS pointer, not the file itself.", hint=f"git -C {source} lfs pull")
    if gguf is not None and (ours := _of_gguf(line, part, gguf)) is not None and not isinstance(error, TypeError):
        return ours
    for known in KNOWN:
        if known.said in str(error):
            words = {"source": source, "line": line, "names": kinds_of_names(), **_commands()}
            return known.kind(known.message.format(**words), hint=known.hint.format(**words))
    if isinstance(error, ImportError):
        return MissingExtraError(f"{source!r} needs a package that is not installed: {line}", hint="install it, and try again")
    if isinstance(error, (OSError, SafetensorError)):
        return ModelFileError(f"{source!r} cannot be loaded as a model: {line}", hint=_check_files(error, source))
    if part == "tokenizer" and (isinstance(error, (ValueError, KeyError)) or type(error) is Exception):
        return ModelFileError(
            f"The tokenizer of {source!r} cannot be loaded: {line}",
            hint="the tokenizer's files may be missing or incomplete: fetch them again",
        )
    return None


def _commands() -> dict[str, str]:
    """Install commands in hints, for the running Python."""
    return {
        "upgrade": pip_install("--upgrade", "transformers"),
        "old_tokenizers": pip_install("sentencepiece", "tiktoken"),
    }


def _check_files(error: Exception, source: str) -> str:
    """What to check if a file cannot be read. One outside of the model's folder belongs to the hub's cache."""
    name = getattr(error, "filename", None)
    if isinstance(name, str) and not Path(source).exists():
        return f"check {name}: HF_HOME, HF_HUB_CACHE and HF_TOKEN_PATH say where the hub's files are on this machine"
    return f"check the name and the files; {kinds_of_names()}"


def _not_understood(error: Exception, part: str, source: str) -> DolaError:
    """dola's error for any other failure: most often a value in a JSON file that transformers does not expect."""
    said = " ".join(str(error).split())[:300]
    return ModelFileError(
        f"transformers cannot load the {part} of {source!r}: {type(error).__name__}: {said}",
        hint="compare the model's JSON files with those that its makers published; if they are right, please report this"
        if Path(source).is_dir()
        else "check the name, the network, and environment variables that begin with HF_",
    )


def _lfs_pointer(source: str) -> Path | None:
    """A file of a folder that is still a Git LFS pointer, or None."""
    for path in Path(source).glob("*") if Path(source).is_dir() else ():
        if path.is_file() and path.stat().st_size < LARGEST_POINTER and path.read_bytes().startswith(LFS):
            return path
    return None


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in ("out of memory", "can't allocate memory"))


def _of_gguf(line: str, part: str, gguf: Path) -> DolaError | None:
    if (fault := _gguf_fault(gguf)) is not None:
        return ModelFileError(f"{gguf} cannot be read as a GGUF file: {fault}", hint="it may be truncated; fetch it again")
    if "GGUF model with architecture" in line:
        return ModelError(f"transformers does not read {gguf}: {line}", hint="use the model as its makers published it")
    if part == "tokenizer":
        return ModelFileError(
            f"{gguf} does not hold a tokenizer that transformers can read: {line}",
            hint="use a GGUF file with its tokenizer in it, or the model as its makers published it",
        )
    return None


def _gguf_fault(path: Path) -> str | None:
    """Why a file cannot be read as GGUF. None if it can: then a failed load has another cause."""
    from gguf import GGUFReader

    try:
        GGUFReader(path)
    except Exception as error:
        return first_line(error)
    return None


def kinds_of_names() -> str:
    """What a model's name can be, for hints."""
    return f"a model is a hub id (owner/name), a folder, a .gguf file, or one of {', '.join(EMBEDDED)}"


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its class if it has none."""
    return (str(error).strip() or repr(error)).splitlines()[0]
