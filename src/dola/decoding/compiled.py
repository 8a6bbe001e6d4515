"""How the hooks work with torch.compile: inside the compiled graph they are part of it, outside they stay uncompiled.

torch runs the hooks of the outermost module outside the code that it compiles, for `generate` as for `torch.compile(model)`.
It then compiles each of these hooks by itself. That multiplies compilations (one for each hook and shape), and code that works
in chunks and reads values does not compile well. A hook that is reached while torch traces the model is still traced.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

Function = TypeVar("Function")


def not_compiled_alone(function: Function) -> Function:
    """Prevent torch.compile from starting a compilation at a function or at anything it calls.

    torch has no public way to do this: `torch.compiler.disable` also keeps a function out of graphs that it is part of. If
    torch lacks these names, the hooks are compiled separately: correct, but compiled more often.
    """
    frames: Any = torch._C._dynamo.eval_frame
    code = function.__code__  # type: ignore[attr-defined]
    if hasattr(frames, "set_code_exec_strategy"):
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(skip, skip))
    return function
