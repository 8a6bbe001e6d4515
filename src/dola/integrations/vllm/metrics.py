"""What `/metrics` says about DoLa: requests and rows by method, and how many rows were settled.

    front end      counts a request when vLLM has accepted it
    worker         counts rows when it has scored them              --> one small file each, in one folder
    /metrics       sums the files

vLLM's engine sends its front end a fixed set of statistics, to which a plugin cannot add. So each process counts into a file
in the format that prometheus_client has for several processes. vLLM uses the same format with `--api-server-count`, and then
these files lie in its folder and are summed with its own. Workers on other machines count into a folder there.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
from functools import wraps
from pathlib import Path
from typing import Any

from dola.errors import ConfigError
from dola.integrations.vllm import engines
from dola.integrations.vllm.admission import check
from dola.serving.counts import PLAIN, Counts

logger = logging.getLogger("vllm.dola")

REQUESTS = "dola_requests", "Requests that were accepted, by method."
ROWS = "dola_rows", "Rows of logits that were scored, by method."
SETTLED = "dola_settled_rows", "Rows that were not contrasted, because no layer could change their token, by method."

FOLDER = "DOLA_METRICS_DIR"
"""Environment variable: the folder of the counts. The front end sets it, and an engine's processes inherit it."""

THEIRS = "PROMETHEUS_MULTIPROC_DIR"
SIZE = 2**16
"""Bytes of a file. They are reserved when it is made: a write into a mapped file on a full disk would end the process."""


class _Writer:
    """The counts of this process, in its file. They are not written if the file cannot be made."""

    def __init__(self, folder: str) -> None:
        from prometheus_client.mmap_dict import MmapedDict

        self._pid, self._values, self._lock = os.getpid(), None, threading.Lock()
        path = Path(folder, f"counter_dola{self._pid}.db")
        try:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, SIZE)
            self._values = values = MmapedDict(str(path))
            atexit.register(values.close)
        except OSError as error:
            path.unlink(missing_ok=True)
            logger.warning("/metrics will lack the counts of process %d: %s", self._pid, error)

    def add(self, metric: tuple[str, str], method: str, number: int) -> None:
        """Add to a count."""
        from prometheus_client.mmap_dict import mmap_key

        if self._values is not None and number:
            name, text = metric
            key = mmap_key(name, f"{name}_total", ["method"], [method], text)
            with self._lock:  # vLLM's front end prepares requests in several threads
                self._values.write_value(key, self._values.read_value(key)[0] + number, 0.0)

    def is_ours(self) -> bool:
        """Whether this process made it: a forked process needs its own."""
        return self._pid == os.getpid()


_writer: _Writer | None = None


def start() -> None:
    """Prepare the counts in the process that starts an engine with DoLa: the folder, requests, and `/metrics`."""
    _count_requests()
    if THEIRS not in os.environ and FOLDER not in os.environ:
        try:
            os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix="dola-metrics-")
        except OSError as error:
            logger.warning("/metrics will not count requests and rows of DoLa: %s", error)
            return
        owner = os.getpid()
        atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    if THEIRS not in os.environ:
        _show(os.environ[FOLDER])


def add_rows(counts: Counts) -> None:
    """Add the rows that this process scored. Of several tensor-parallel workers, which all score the same rows, one counts."""
    if not counts.rows or (writer := _writer_here()) is None or not _is_first_worker():
        return
    for method, number in counts.rows.items():
        writer.add(ROWS, method, number)
        writer.add(SETTLED, method, counts.settled[method])


def _writer_here() -> _Writer | None:
    global _writer
    folder = os.environ.get(THEIRS) or os.environ.get(FOLDER)
    if folder is None:  # a worker whose environment was not inherited
        return None
    if _writer is None or not _writer.is_ours():
        _writer = _Writer(folder)
    return _writer


def _is_first_worker() -> bool:
    from vllm.distributed import get_tensor_model_parallel_rank

    return bool(get_tensor_model_parallel_rank() == 0)


_shown: set[str] = set()


def _show(folder: str) -> None:
    """Add the sums of the folder's files to `/metrics`."""
    from prometheus_client import REGISTRY
    from prometheus_client.multiprocess import MultiProcessCollector

    class Collector(MultiProcessCollector):  # type: ignore[misc]
        def describe(self) -> list[Any]:  # or the registry would read the files to learn the names
            return []

        def collect(self) -> Any:
            return super().collect() if Path(folder).is_dir() else []

    if folder not in _shown:
        _shown.add(folder)
        Path(folder).mkdir(parents=True, exist_ok=True)
        Collector(REGISTRY, path=folder)


def _count_requests() -> None:
    """Check each request by its own engine, which `validate_params` cannot know, and count those that are accepted."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    original = InputProcessor.process_inputs
    if hasattr(original, "dola_counts"):
        return

    @wraps(original)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(self, *args, **kwargs)
        engine = engines.served.get(self.vllm_config.instance_id)
        params = getattr(made, "sampling_params", None)
        if engine is not None and params is not None:
            try:
                config = check(params, engine)
            except ConfigError as error:
                raise VLLMValidationError(str(error)) from error
            if (writer := _writer_here()) is not None:
                writer.add(REQUESTS, PLAIN if config is None else config.method, 1)
        return made

    process_inputs.dola_counts = True  # type: ignore[attr-defined]
    InputProcessor.process_inputs = process_inputs
