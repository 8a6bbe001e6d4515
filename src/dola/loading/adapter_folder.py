"""Adapters as PEFT saves them: a folder or repository with `adapter_config.json`, for a base model that it names.

`from_pretrained` on such a folder reports on the adapter's weights but not on the base model's. So the base is loaded and
checked by itself first, and the adapter is loaded onto it afterwards.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dola.errors import MissingExtraError, ModelFileError
from dola.files.records import described
from dola.installed.hints import pip_install

CONFIG = "adapter_config.json"
HUB = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")
"""Arguments of `from_pretrained` that say where and how to look for files."""


class Adapter(NamedTuple):
    """An adapter.

    Attributes:
        source: Its folder or hub id.
        base: The model that it is for: the one its config names, or its own folder if that holds a whole model.
        revision: The revision of the base that its config names.
    """

    source: str
    base: str
    revision: str | None

    @property
    def holds_base(self) -> bool:
        """Whether a whole model lies in the adapter's own folder."""
        return self.base == self.source and Path(self.source, "config.json").is_file()


def find_adapter(source: str, kwargs: dict[str, Any]) -> Adapter | None:
    """The adapter of that name, or None if the name means a model.

    Raises:
        ModelFileError: The adapter_config.json cannot be read or does not name a base model.
        MissingExtraError: PEFT is not installed, and this is an adapter.
    """
    if find_spec("peft") is None:
        if Path(source, CONFIG).is_file():
            raise MissingExtraError(
                f"{source!r} is an adapter; loading it requires peft, which is not installed.", hint=pip_install("peft")
            )
        return None  # for a hub id, loading reports that it does not hold a model
    from transformers.utils import find_adapter_config_file

    where = {name: kwargs[name] for name in HUB if kwargs.get(name) is not None} | (kwargs.get("adapter_kwargs") or {})
    if (path := find_adapter_config_file(source, **where)) is None:
        return None
    if Path(source, "config.json").is_file():
        return Adapter(source, source, None)
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFileError(f"The {CONFIG} of {source!r} cannot be read: {error}", hint="save the adapter again") from error
    if not isinstance(config, dict):
        raise ModelFileError(
            f"The {CONFIG} of {source!r} cannot be read: it holds {described(config)}, not an object.",
            hint="save the adapter again",
        )
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelFileError(
            f"The {CONFIG} of {source!r} does not name the model that the adapter is for.",
            hint=f'write it into {CONFIG}: "base_model_name_or_path": "owner/name", or a folder',
        )
    return Adapter(source, base, revision if isinstance(revision, str) else None)


@contextmanager
def as_base_of(adapter: Adapter) -> Iterator[None]:
    """Errors raised inside, where an adapter's base model is loaded, name the adapter too.

    Raises:
        ModelFileError: The base does not exist, cannot be loaded, or is an adapter itself.
    """
    try:
        if Path(adapter.base, CONFIG).is_file() and not Path(adapter.base, "config.json").is_file():
            raise ModelFileError(
                f"That is itself an adapter, not a whole model: it has {CONFIG} and no config.json.",
                hint="name the model that it was trained from, or merge the adapters",
            )
        yield
    except ModelFileError as error:
        raise ModelFileError(
            f"The adapter {adapter.source!r} is for the model {adapter.base!r}. {error.message}",
            hint=f"{error.hint}; if that is the wrong model, set the right name or folder in {adapter.source}/{CONFIG}: "
            "base_model_name_or_path",
        ) from error


@contextmanager
def base_alone(adapter: Adapter) -> Iterator[str]:
    """The base's name for `from_pretrained`: a folder without the adapter if the two share one."""
    if not adapter.holds_base:
        yield adapter.base
        return
    with tempfile.TemporaryDirectory(prefix="dola-base-") as folder:
        for path in Path(adapter.source).iterdir():
            if not path.name.startswith("adapter_"):
                os.symlink(path.resolve(), Path(folder, path.name), target_is_directory=path.is_dir())
        yield folder


def put_on(model: Any, adapter: Adapter, kwargs: dict[str, Any], *, say: Callable[[str], None]) -> Any:
    """Load an adapter onto its base. Returns transformers' report on its weights.

    PEFT's warnings, such as those about settings of a later version that it ignores, go to `say`.
    """
    where = {name: kwargs[name] for name in HUB if kwargs.get(name) is not None}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        found = model.load_adapter(
            adapter.source,
            adapter_name=kwargs.get("adapter_name", "default"),
            adapter_kwargs={**where, **(kwargs.get("adapter_kwargs") or {})},
            ignore_mismatched_sizes=True,  # they are on the list, with their shapes
        )
    for line in dict.fromkeys(" ".join(str(each.message).split()) for each in warned):
        say(f"PEFT warns: {line}")
    return found
