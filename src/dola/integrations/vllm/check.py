"""`dola serve --check`: whether a model can be served, found out without its weights.

The model's class is built on torch's meta device, which holds shapes and no numbers. So any size fits on any machine, and the
parts are those that the engine would find. What needs numbers, the proof (proof.py), runs when the engine starts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dola.errors import DolaError, ModelError


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        architecture: Name of vLLM's class.
        tested: Whether dola's tests run this architecture.
        blocks: Name and number of the blocks.
        norms: Names of the candidates for the final norm; the proof chooses.
        head: Class of the head; None if none was found.
        layers: The layers that are captured.
        width: Size of a layer.
        memory: Bytes of the buffer that holds captured rows, on each worker.
        sent: Bytes of the buffer for captures that a later pipeline stage receives, at most.
    """

    architecture: str
    tested: bool
    blocks: tuple[str, int]
    norms: tuple[str, ...]
    head: str | None
    layers: tuple[int, ...]
    width: int
    memory: int
    sent: int

    def lines(self) -> list[str]:
        """The result as lines of text."""
        known = "dola's tests run it" if self.tested else "dola's tests do not run it"
        norms = f"{self.norms[0]} (of {len(self.norms)})" if len(self.norms) > 1 else "".join(self.norms) or "none"
        lines = [
            f"architecture  {self.architecture} ({known})",
            f"blocks        {self.blocks[0]}, {self.blocks[1]} of them, {self.width} wide",
            f"final norm    {norms}",
            f"head          {self.head}",
            f"captured      {len(self.layers)} layers: {', '.join(map(str, self.layers))}",
            f"memory        {self.memory / 2**20:.1f} MiB for captured rows on each worker",
        ]
        if self.sent:
            lines.append(f"pipeline      up to {self.sent / 2**20:.1f} MiB for layers from earlier stages on the last stage")
        return [*lines, "The parts are proved on a forward pass when the engine starts."]


def check(model: str, settings: dict[str, Any], arguments: Sequence[str] = ()) -> Checked:
    """Find out whether a model can be served with DoLa, without loading weights.

    Args:
        model: A hub id or a folder.
        settings: The "dola" object of vLLM's additional_config.
        arguments: Other options of vLLM's server.

    Raises:
        DolaError: It cannot be served, or vLLM cannot build the model: the reason.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        config, stages = _config(model, settings, arguments)
        with _one_worker(config):
            built = _built(config)
    except Exception as error:
        raise _ours(error, model) from error
    parts, captures = built._dola_parts, built._dola_captures
    if parts.head is None or parts.processor is None:
        raise ModelError(
            f"{type(built).__name__} has no head of a known class.", hint="decode it with transformers: dola.generate"
        )
    return _checked(config, parts, captures, stages)


def _checked(config: Any, parts: Any, captures: Any, stages: int) -> Checked:
    from dola.integrations.vllm.architectures import TESTED

    size = captures.buffer.element_size()
    tokens = config.scheduler_config.max_num_batched_tokens
    architecture = config.model_config.architecture
    return Checked(
        architecture,
        architecture in TESTED,
        (parts.path, len(parts.blocks)),
        tuple(name for name, _ in parts.norms),
        None if parts.head is None else type(parts.head).__name__,
        captures.layers,
        parts.width,
        captures.buffer.numel() * size,
        tokens * len(captures.layers) * parts.width * size if stages > 1 else 0,
    )


def _config(model: str, settings: dict[str, Any], arguments: Sequence[str]) -> tuple[Any, int]:
    """The engine's configuration, for one worker, and the number of pipeline stages that were asked for."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    known, _ = parser.parse_known_args(["--model", model, *arguments])
    given = EngineArgs.from_cli_args(known)
    stages = given.pipeline_parallel_size
    given.additional_config = {"dola": settings}
    given.tensor_parallel_size = given.pipeline_parallel_size = given.data_parallel_size = 1
    config = given.create_engine_config()
    config.parallel_config.pipeline_parallel_size = stages  # for dola's settings: the groups have one worker
    return config, stages


@contextmanager
def _one_worker(config: Any) -> Any:
    """vLLM's groups of workers, with this process as the only one."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state

    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(config):
        started = not parallel_state.model_parallel_is_initialized()
        if started:
            parallel_state.init_distributed_environment(1, 0, f"file://{folder}/meeting", 0, "gloo")
            parallel_state.ensure_model_parallel_initialized(1, 1)
        try:
            yield
        finally:
            if started:
                parallel_state.destroy_model_parallel()
                parallel_state.destroy_distributed_environment()


def _built(config: Any) -> Any:
    import torch
    from vllm.model_executor.layers.rotary_embedding import _ROPE_DICT
    from vllm.model_executor.model_loader.utils import initialize_model

    before, rotary = torch.get_default_dtype(), dict(_ROPE_DICT)
    torch.set_default_dtype(config.model_config.dtype)
    try:
        with torch.device("meta"):
            return initialize_model(config)
    finally:
        torch.set_default_dtype(before)
        _ROPE_DICT.clear()  # an engine of this process must not get tables without data
        _ROPE_DICT.update(rotary)


def _ours(error: BaseException, model: str) -> DolaError:
    """dola's own error in a chain of errors, or one that quotes vLLM's."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, DolaError):
            return found
        details = getattr(found, "errors", None)  # pydantic's, which hold the original
        for detail in details() if callable(details) else ():
            inner = detail.get("ctx", {}).get("error")
            if isinstance(inner, DolaError):
                return inner
        found = found.__cause__ or found.__context__
    said = " ".join(str(error).split())[:400]
    return ModelError(
        f"vLLM cannot build {model!r} without weights: {type(error).__name__}: {said}",
        hint="start the server: it says whether the model can be served once the weights are loaded",
    )
