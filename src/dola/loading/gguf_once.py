"""A GGUF file's header is parsed once for a model and its tokenizer, although transformers asks for it three times.

The header holds the vocabulary, and the parser is Python: at 262,144 tokens it takes longer than the weights do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

_LOCK = threading.RLock()


@contextmanager
def header_parsed_once(file: Path | None) -> Iterator[None]:
    """While this is open, `gguf.GGUFReader` returns one reader for the file, which must not change meanwhile.

    The readers of other files, and of a file that is opened for writing, are made as always.

    Args:
        file: None if the model is not in a GGUF file.
    """
    try:
        import gguf

        say_version(gguf)
    except ImportError:  # transformers says so itself
        file = None
    if file is None:
        yield
        return
    with _LOCK:
        original, kept = gguf.GGUFReader, dict[str, Any]()

        def reader(path: Any, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs or Path(path) != file:
                return original(path, *args, **kwargs)
            if "reader" not in kept:
                kept["reader"] = original(path)
            return kept["reader"]

        module: Any = gguf
        module.GGUFReader = reader
        try:
            yield
        finally:
            module.GGUFReader = original


def say_version(module: Any) -> None:
    """Give gguf its `__version__`.

    On Python 3.10 transformers does not find the distribution that gguf comes from, and asks the module, which does not say.
    """
    if not hasattr(module, "__version__"):
        with suppress(metadata.PackageNotFoundError):
            module.__version__ = metadata.version("gguf")
