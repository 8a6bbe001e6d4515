"""How a run of the command ends: exit codes and error messages.

    0    done
    1    failed, but not by the user's mistake: out of memory; a check of `dola doctor`
    2    a user's mistake: what is wrong, the value given, what is allowed, and a hint
    130  Ctrl-C
    141  the reader of the output closed the pipe, as `head` does
Anything else is a bug in dola and shows its traceback.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import typer

from dola.cli.output import log_as_said
from dola.errors import ConfigError, DolaError, InputError, MissingExtraError, UsageError
from dola.methods.config import DoLaConfig

_OF_DOLA = [each.name for each in DoLaConfig.options() if each.kind is not bool]
_FLAGS = "|".join(["layers", *_OF_DOLA, "dtype|device|device_map|repeats|new_tokens|cache|prompt_lookup|repetition_penalty"])
_VALUE = r"\[[^]]*\]|[\"'][^\"']*[\"']|-?[\w.]+"

# typer exports only a subclass of it, and where click lives depends on typer's version.
_ClickUsageError: Any = typer.BadParameter.__mro__[1]


@contextmanager
def in_words() -> Iterator[None]:
    """Run a command inside, and end the process as described above."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # replaced by something simpler
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            with log_as_said():
                yield
        except typer.Exit as done:
            sys.stdout.flush()
            raise SystemExit(done.exit_code) from None
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        print("\ndola: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        _write_no_more()
        raise SystemExit(141) from None
    except DolaError as error:
        # Only these mention arguments that are flags of the command; in other errors such words may come from a file.
        words = as_flags if isinstance(error, (ConfigError, InputError, MissingExtraError)) else str
        fail(words(error.message), words(error.hint))
    except _ClickUsageError as error:
        _fail_to_parse(error)
    except OSError as error:
        what = f"{error.filename!r}: {error.strerror}" if error.filename else str(error)
        fail(f"{what}.", "check the path, its permissions, and the space on the disk")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        fail(
            f"out of memory: {(str(error) or 'MemoryError').splitlines()[0]}",
            "use a smaller model, --dtype bfloat16, or a smaller --batch-size",
            code=1,
        )


@contextmanager
def importing(*, checked: bool = True) -> Iterator[None]:
    """Import torch and other large packages inside: Ctrl-C ends the process at once.

    Args:
        checked: Whether to check first that torch and transformers fit: `versions.check`, which raises VersionsError.
    """
    with _ended_by_ctrl_c():
        if checked:
            from dola.installed.versions import check

            check()
        yield


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """End the process at Ctrl-C inside, without an exception.

    An exception would not work: while numpy and torch are imported they run Python code from C, which loses a
    KeyboardInterrupt or turns it into an ImportError. Nothing has been written yet, so nothing is lost.
    """

    def stop(*_: object) -> NoReturn:
        os.write(2, b"\ndola: interrupted\n")
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    # Other threads cannot set handlers; and if the signal is ignored, as under nohup, it stays ignored.
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except ValueError as error:
        if isinstance(error, DolaError):
            raise
        raise UsageError(  # huggingface_hub and others read their environment variables when they are imported
            f"A library cannot be imported: {error}.",
            hint="find the environment variable with that value: env | grep -E 'HF_|HUGGING|TORCH|TRANSFORMERS|OMP'",
        ) from error
    finally:
        signal.signal(signal.SIGINT, before)


def fail(message: str, hint: str, *, code: int = 2) -> NoReturn:
    """Print an error on stderr, and end the process. A hint is never wrapped, because it may hold a command to paste."""
    print(f"{_wrapped(f'dola: {message}')}\nHint: {hint}", file=sys.stderr)
    raise SystemExit(code) from None


def _wrapped(text: str) -> str:
    """The text with lines that end between words, if stderr is a terminal; programs get it unchanged."""
    if not sys.stderr.isatty():
        return text
    width = max(os.get_terminal_size(sys.stderr.fileno()).columns or 80, 20)  # 0 where the terminal does not know it
    return "\n".join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))


def as_flags(text: str) -> str:
    """A library's error message in terms of the command line: `layers=[24, 28]` becomes `--layers 24,28`."""

    def flag(match: re.Match[str]) -> str:
        name, value = match[1].removesuffix("_map").replace("_", "-"), match[2].strip("[]\"'").replace(", ", ",")
        return f"--{name} {value}"

    return re.sub(rf"\b({_FLAGS})=({_VALUE})", flag, text)


def _fail_to_parse(error: Any) -> NoReturn:
    """Report a mistake in the command line itself, in the form of all other errors."""
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        print(context.get_help(), file=sys.stderr)
        raise SystemExit(2)
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    option = getattr(error, "param", None)
    given, origin = _given(option), ""
    if given is None:
        given, origin = _configured(context, option)
    if given is not None and repr(given) not in message:
        message = f"{message.rstrip('.')}, not {given!r}."
    message = f"{message.rstrip('.')}; it comes from {origin}." if origin else message
    verb = sys.argv[1] if context is None and len(sys.argv) > 1 else ""
    if "No such command" in message:
        message += f" Available: {', '.join(context.command.commands)}."
    path = context.command_path if context is not None else f"dola {verb}".strip()
    if getattr(error, "option_name", "") in ("-m", "--model") and _takes_model(context):
        fail(message, f"MODEL needs no flag here: {path} smollm2")
    if message.startswith("Missing argument") and (example := _example(context)):
        fail(message, example)
    fail(message, f"{path} --help")


def _example(context: Any) -> str | None:
    """The first example in a verb's help."""
    lines = [] if context is None else (context.command.help or "").splitlines()
    return next((line.strip() for line in lines if line.strip().startswith(f"{context.command_path} ")), None)


def _takes_model(context: Any) -> bool:
    parameters = () if context is None else context.command.params
    return any(parameter.name == "model" and parameter.param_type_name == "argument" for parameter in parameters)


def _given(option: Any) -> str | None:
    """The value of an option on the command line; some of the parser's messages omit it. The last one counts."""
    found = None
    for word, after in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=True):
        for name in getattr(option, "opts", ()):
            if word == name:
                found = after
            elif word.startswith(f"{name}="):
                found = word.removeprefix(f"{name}=")
    return found


def _configured(context: Any, option: Any) -> tuple[Any, str]:
    """The value that --config gives an option that the command line omits, and the file's name for messages."""
    name = getattr(option, "name", None)
    source = None if context is None or name is None else context.get_parameter_source(name)
    if source is None or source.name != "DEFAULT_MAP":
        return None, ""
    return context.default_map.get(name), f"--config {str(context.params.get('config'))!r}"


def _is_out_of_memory(error: Exception) -> bool:
    words = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in words
        or "can't allocate memory" in words
    )


def _write_no_more() -> None:
    """Discard buffered output; otherwise Python complains about the closed pipe when it exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
