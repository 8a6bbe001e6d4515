"""Other code around the calls of a module, without hooks, which MLX does not have.

Python looks `__call__` up on the class. So a module gets a class of its own, derived from the one that it had: its weights,
its name in the tree of modules and `isinstance` stay as they are. Undoing gives the old class back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""What runs in place of a call: it is given the call itself, bound to its module, and the arguments."""


class Swaps:
    """Changes of one model, undone together."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def around(self, module: Any, run: Around) -> None:
        """Let `run` decide what a call of the module gives."""
        old = type(module)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return run(lambda *a, **k: old.__call__(self, *a, **k), args, kwargs)

        module.__class__ = type(old.__name__, (old,), {"__call__": call, "__module__": old.__module__})
        self._undo.append(lambda: setattr_plain(module, "__class__", old))

    def put(self, module: Any, name: str, value: Any) -> None:
        """Set an attribute that does not belong to the weights."""
        setattr_plain(module, name, value)
        self._undo.append(lambda: object.__delattr__(module, name))

    def undo(self) -> None:
        """Restore everything, the last change first."""
        while self._undo:
            self._undo.pop()()


def setattr_plain(module: Any, name: str, value: Any) -> None:
    """Set an attribute past `nn.Module.__setattr__`, which would make a parameter of an array, and a child of a module."""
    object.__setattr__(module, name, value)
