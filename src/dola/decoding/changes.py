"""Changes of a session to a model, and how to undo them: hooks of modules, attributes of instances.

Each change is recorded before it is made, because the call that makes it may raise an exception, or Ctrl-C may follow. So
`undo` restores the model whatever happens.
"""

from __future__ import annotations

import atexit
import functools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

_MISSING = object()
_TABLES = ("_forward_pre_hooks", "_forward_hooks")
_MARKS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


class Changes:
    """Changes to the modules of one model, undone in the reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._hooks: list[tuple[nn.Module, str, int]] = []
        _LIVE.add(self)

    def before(self, module: nn.Module, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """Call `hook` before each forward pass of `module`; for the options see `register_forward_pre_hook`."""
        self._undo.append(functools.partial(_unhook, module, hook, set()))
        return self._noted(module, "_forward_pre_hooks", module.register_forward_pre_hook(hook, **options))

    def after(self, module: nn.Module, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """Call `hook` after each forward pass of `module`; for the options see `register_forward_hook`."""
        self._undo.append(functools.partial(_unhook, module, hook, set()))
        return self._noted(module, "_forward_hooks", module.register_forward_hook(hook, **options))

    def _noted(self, module: nn.Module, table: str, handle: RemovableHandle) -> RemovableHandle:
        self._hooks.append((module, table, handle.id))
        return handle

    def are_lost(self) -> bool:
        """Whether other code has removed one of these hooks."""
        return any(key not in getattr(module, table) for module, table, key in self._hooks)

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of the instance `owner`. If other code sets it later, undoing leaves that value."""
        self._undo.append(functools.partial(_put_back, owner, name, value, vars(owner).get(name, _MISSING)))
        vars(owner)[name] = value

    def enter(self, context: AbstractContextManager[Any]) -> None:
        """Enter `context`. Undoing leaves it, and does nothing if it was not entered."""
        self._undo.append(functools.partial(context.__exit__, None, None, None))
        context.__enter__()

    def undo(self) -> None:
        """Undo all changes. After an interruption the next call does the rest; without changes it does nothing."""
        self._hooks.clear()
        while self._undo:
            self._undo[-1]()
            self._undo.pop()


_LIVE: weakref.WeakSet[Changes] = weakref.WeakSet()


@atexit.register
def _undo_all() -> None:
    """A script may end while DoLa is attached. Later, when a suspended generator leaves its `with`, Python may have cleared
    the globals that undoing needs."""
    for changes in list(_LIVE):
        changes.undo()


def _unhook(module: nn.Module, hook: Callable[..., Any], keys: set[int]) -> None:
    """Remove `hook`, whether its registration returned or failed. `keys` stores torch's keys of it for a second try."""
    keys.update(key for table in _TABLES for key, found in getattr(module, table).items() if found is hook)
    for name in (*_TABLES, *_MARKS):
        for key in keys:
            getattr(module, name).pop(key, None)


def _put_back(owner: Any, name: str, value: Any, before: Any) -> None:
    attributes = vars(owner)
    if attributes.get(name) is not value:
        return
    if before is _MISSING:
        del attributes[name]
    else:
        attributes[name] = before
