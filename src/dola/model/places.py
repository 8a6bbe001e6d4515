"""Watches the places of a model's parts and other hooks on them, in a few microseconds before each forward pass.

Parts can be replaced while DoLa is attached: an adapter on the head, a new head, another norm. Other code may also put hooks
on modules, to steer or observe a model. Both change what the model computes, and therefore what its layers predict.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules import module as nn_module

if TYPE_CHECKING:
    from dola.model.anatomy import Anatomy

Hooks = OrderedDict[int, Callable[..., Any]]
_EVERYWHERE: tuple[Hooks, ...] = (nn_module._global_forward_pre_hooks, nn_module._global_forward_hooks)  # type: ignore[assignment]
"""Hooks that torch runs on all modules."""


class Places:
    """The modules that an anatomy names, by their paths from the causal LM, at the time of creation.

    A part that is not a module of the model, and contains none, has no place and cannot be watched.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._lm = anatomy.lm
        self._links = _links(anatomy)
        self._list, self._count = _block_list(anatomy)
        self._config = anatomy.lm.config
        self._numbers = [(namespace, name, namespace.get(name)) for namespace, name in anatomy.transform_attributes()]

    @property
    def owners(self) -> list[nn.Module]:
        """The causal LM, and the modules between it and the parts."""
        return list({id(owner): owner for owner, _, _, _ in self._links}.values())

    def moved(self) -> bool:
        """Whether a part was replaced: the form of `changed` for torch.compile, which makes guards from it."""
        return any(owner._modules.get(name) is not module for owner, name, _, module in self._links)

    def changed(self) -> str | None:
        """The path of the first part that was replaced, removed or added; None if all are unchanged."""
        for owner, name, path, module in self._links:
            if owner._modules.get(name) is not module:
                return path
        if self._list is not None and len(self._list) != self._count:
            return f"the list of blocks, which had {self._count} and now has {len(self._list)}"
        if self._lm.config is not self._config:
            return "config"
        for namespace, name, value in self._numbers:
            if namespace.get(name) is not value:
                return name
        return None


def _links(anatomy: Anatomy) -> tuple[tuple[nn.Module, str, str, nn.Module], ...]:
    """Each link between the causal LM and a part: a module, the name of its submodule, the submodule's path, the submodule."""
    paths = {id(module): path for path, module in anatomy.lm.named_modules()}
    links: dict[str, tuple[nn.Module, str, str, nn.Module]] = {}
    for module in parts_of(anatomy):
        names = paths.get(id(module), "").split(".")
        owner = anatomy.lm
        for depth, name in enumerate(names if names != [""] else (), 1):
            path, following = ".".join(names[:depth]), owner._modules[name]
            links[path] = (owner, name, path, following)
            owner = following
    return tuple(links.values())


def _block_list(anatomy: Anatomy) -> tuple[Any, int]:
    """The ModuleList of the blocks, and its length."""
    blocks = list(anatomy.blocks)
    for module in anatomy.lm.modules():
        if isinstance(module, nn.ModuleList) and len(module) and module[0] is blocks[0]:
            return module, len(module)
    return None, 0


def parts_of(anatomy: Anatomy) -> Iterator[nn.Module]:
    """The modules among an anatomy's parts, blocks first."""
    yield from anatomy.blocks
    for part in (anatomy.final_norm, anatomy.projection, anatomy.head, anatomy.stream):
        if isinstance(part, nn.Module):
            yield part
        else:
            yield from (value for value in getattr(part, "__dict__", {}).values() if isinstance(value, nn.Module))


def readers_of(anatomy: Anatomy) -> list[nn.Module]:
    """The modules that process a residual stream when it is read out."""
    return [part for part in (anatomy.final_norm, anatomy.projection, anatomy.head) if isinstance(part, nn.Module)]


def hooks_on(modules: Iterable[nn.Module]) -> tuple[Hooks, ...]:
    """The hooks of modules, before and after their forwards."""
    both = ((module._forward_pre_hooks, module._forward_hooks) for module in modules)
    return tuple(hooks for pair in both for hooks in pair)  # type: ignore[misc]


class Watch:
    """Detects changes that other code makes to modules: hooks, including torch's global ones, and replaced forwards."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._hooks = (*hooks_on(self._modules), *_EVERYWHERE)
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether anything was added or removed since the last call."""
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def _look(self) -> tuple[object, ...]:
        return (*map(tuple, self._hooks), *(vars(module).get("forward") for module in self._modules))


def is_foreign(hook: Callable[..., Any]) -> bool:
    """Whether a hook belongs neither to dola nor to transformers' collection of hidden states."""
    origin = getattr(getattr(hook, "func", hook), "__module__", None) or ""
    return not origin.startswith(("dola.", "transformers."))


def foreign_hooks(modules: Iterable[nn.Module]) -> list[Callable[..., Any]]:
    """Other code's hooks on modules, and those that torch runs on all modules."""
    return [hook for hooks in (*hooks_on(modules), *_EVERYWHERE) for hook in tuple(hooks.values()) if is_foreign(hook)]


def is_hooked_outside(anatomy: Anatomy) -> bool:
    """Whether the causal LM or a module that contains parts has other hooks, which may change only some positions."""
    return bool(foreign_hooks(Places(anatomy).owners))


def describe_hooks(anatomy: Anatomy) -> str:
    """Other hooks and replaced forwards on the last block and on everything after it, each with its place; "" without any."""
    paths = {id(module): path for path, module in anatomy.lm.named_modules()}
    around = (*Places(anatomy).owners, *anatomy.blocks[-1:], *readers_of(anatomy))
    modules = {id(module): module for module in around}
    found = []
    for key, module in modules.items():
        place = paths.get(key) or type(module).__name__
        found += [f"{_name(hook)} on {place}" for hook in foreign_hooks([module])]
        if "forward" in vars(module) and not hasattr(module, "_hf_hook"):  # accelerate's, which moves weights
            found.append(f"{_name(vars(module)['forward'])} as the forward of {place}")
    return ", ".join(dict.fromkeys(found))


def _name(hook: Callable[..., Any]) -> str:
    plain = getattr(hook, "func", hook)
    return str(getattr(plain, "__qualname__", type(plain).__name__))


def last_in(hooks: Hooks, key: int) -> None:
    """Move the hook `key` after all other hooks."""
    for other, hook in reversed(tuple(hooks.items())):  # a copy: other threads may add hooks meanwhile
        if other == key:
            return
        if is_foreign(hook):
            hooks.move_to_end(key)
            return
