"""Where a lens comes from: a file, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from dola.errors import LensError

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
HUB_FILE = "lens.safetensors"
"""The name that a lens has in a repository of the hub."""


def located(source: str) -> Path:
    """The file that a lens is in; one of the hub is downloaded.

    Raises:
        LensError: The file does not exist, or the hub does not have it.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        raise LensError(
            f"The lens {source!r} is a folder, not a file.", hint=f"dola lens import {source} --output FILE, for a tuned lens"
        )
    if path.is_file():
        return path
    if path.exists():  # reading a device or a pipe need not end
        raise LensError(f"The lens {source!r} is neither a file nor a hub id.", hint="name the file that dola lens fit wrote")
    found = HUB_ID.fullmatch(source)
    if found is None or source.endswith(".safetensors"):
        raise LensError(f"The lens file {source!r} does not exist.", hint="fit one: dola lens fit MODEL --output FILE")
    return _downloaded(found["repo"], found["revision"])


def _downloaded(repo: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, HUB_FILE, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        at = f" at revision {revision!r}" if revision else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LensError(
            f"The file {repo!r} does not exist, and the hub gave no {HUB_FILE} of {repo!r}{at}: {reason}",
            hint="check the name and the network, or fit a lens: dola lens fit MODEL --output FILE",
        ) from None
