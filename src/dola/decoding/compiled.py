"""How the hooks get along with torch.compile: a part of the graph inside it, left as they are beside it.

torch runs the hooks of the outermost module outside the code that it compiles, for `generate` as for `torch.compile(model)`.
It then compiles each of these hooks by itself. That multiplies compilations (one for each hook and shape), and what decodes in
chunks and looks at values does not compile well. A hook that is reached while torch traces the model is still traced.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

Function = TypeVar("Function")


def not_compiled_alone(function: Function) -> Function:
    """Have torch.compile leave a function, and all that it calls, as it is where torch would begin to compile with it.

    torch has no public way to say so: `torch.compiler.disable` also keeps a function out of graphs that it is a part of. Where
    these names of torch's are missing, the hooks are compiled by themselves: right, but compiled more often.
    """
    frames: Any = torch._C._dynamo.eval_frame
    code = function.__code__  # type: ignore[attr-defined]
    if hasattr(frames, "set_code_exec_strategy"):
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(skip, skip))
    return function
