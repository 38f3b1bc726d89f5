"""Which layers to measure at: found by looking at one forward pass, at two batch sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from marginkit.activations import capture, closed, evaluating, listed, unseen
from marginkit.errors import UsageError
from marginkit.guard.answer import answer
from marginkit.kinds import INPUT
from marginkit.norms import Vectors

SIZES = (2, 3)  # of the batches: a layer's leading size that follows both counts samples
GROUPS = ("all", "hidden")


@dataclass(frozen=True)
class Stages:
    """The layers to measure at where the user names none.

    Attributes:
        names: `input`, then modules in the order they run.
        left_out: other stages with parameters, and in a few words why each is none of these.
    """

    names: tuple[str, ...] = (INPUT,)
    left_out: tuple[tuple[str, str], ...] = ()

    def remark(self) -> str | None:
        """One sentence on what was left out, None where nothing was."""
        if not self.left_out:
            return None
        shown = ", ".join(f"{name} ({why})" for name, why in self.left_out[:6])
        more = f" and {len(self.left_out) - 6} more" if len(self.left_out) > 6 else ""
        return f"default layers leave out {shown}{more}"


@dataclass
class _Run:
    """What one module did in one forward pass."""

    outputs: list[Any] = field(default_factory=list)
    order: int = -1


Runs = dict[str, _Run]
_SEEN: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()  # a loss asks at every step


def resolve_layers(model: nn.Module, layers: Sequence[str], x: Vectors) -> tuple[str, ...]:
    """`all` stands for the default stages, `hidden` for those but the input; other names for themselves.

    Args:
        model: as in `find_stages`.
        layers: `all`, `hidden`, `input`, or names as in `named_modules()`.
        x: a batch to look with, of which no more than three samples are taken.

    Raises:
        MarginkitError: a named layer is unknown, does not run exactly once, or does not give one
            floating-point tensor with the samples first.
        UsageError: the model has no hidden stage, and nothing else is asked for.
    """
    groups: dict[str, tuple[str, ...]] = {}
    if any(layer in GROUPS for layer in layers):
        every = find_stages(model, x).names
        groups = {"all": every, "hidden": every[1:]}
    named = tuple(dict.fromkeys(name for name in layers if name not in (*GROUPS, INPUT)))
    if named:
        _remembered(model, x, ("named", named), lambda: _check(model, x, named))
    found = tuple(dict.fromkeys(name for layer in layers for name in groups.get(layer, (layer,))))
    if not found:
        raise UsageError(
            f"layers are {', '.join(layers) or 'none'}, but this model has no hidden stage with parameters:"
            f" name the input or a module; it has {listed(dict(model.named_modules()))}"
        )
    return found


def find_stages(model: nn.Module, x: Vectors) -> Stages:
    """The stages with parameters but the last, whose output is the scores.

    A stage has to run once, to give one floating-point tensor whose leading size follows the batch's, and
    to have a gradient from the scores. Where it does not, what lies inside it is asked in its place. Where
    one stage is all there is, its parts are the stages. Compiled and scripted modules are not looked into.

    Args:
        model: any module; hooks are set for two forward passes in eval mode and taken off again.
        x: a batch of at least one sample.
    """
    found: Stages = _remembered(model, x, ("stages",), lambda: _find(model, x))
    return found


def _remembered(model: nn.Module, x: Tensor, what: tuple[Any, ...], find: Any) -> Any:
    key = (*what, tuple(x.shape[1:]), *map(id, model.modules()))
    known = _SEEN.setdefault(model, {})
    if key not in known:
        known.clear()  # the model was changed
        known[key] = find()
    return known[key]


def _check(model: nn.Module, x: Tensor, named: Sequence[str]) -> None:
    with _undisturbed(model, x):
        for size in SIZES:
            capture(model, _batch(x, size), named)


def _batch(x: Tensor, size: int) -> Tensor:
    return x.detach()[[i % len(x) for i in range(size)]]


def _find(model: nn.Module, x: Tensor) -> Stages:
    modules, closed = _visible(model)
    if not modules:
        return Stages(left_out=closed)
    try:
        few, many = (_watched(model, modules, _batch(x, size)) for size in SIZES)
        found = _Choice(few[0], many[0], many[1]).stages()
        return Stages(found.names, (*closed, *found.left_out))
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        return Stages(left_out=(("every hidden layer", f"looking at them failed: {reason}"),))


def _visible(model: nn.Module) -> tuple[dict[str, nn.Module], tuple[tuple[str, str], ...]]:
    """Modules with parameters that hooks can see, by name; and those where they can't, and why."""
    modules = {name: m for name, m in model.named_modules() if any(True for _ in m.parameters())}
    outermost = {
        name: module
        for name, module in modules.items()
        if not any(closed(modules[part]) for part in _around(name) if name and part in modules)
    }
    visible = {name: module for name, module in outermost.items() if name and not unseen(module)}
    missing = (name for name, module in outermost.items() if unseen(module) or (not name and closed(module)))
    return visible, tuple((name or "all hidden layers", "compiled or scripted") for name in missing)


def _around(name: str) -> list[str]:
    """The names of the modules around one, nearest first, the model's own (empty) last."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, -1, -1)]


@contextmanager
def _undisturbed(model: nn.Module, x: Tensor) -> Iterator[None]:
    devices = [x.device] if x.device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices):
        yield


def _watched(model: nn.Module, modules: dict[str, nn.Module], x: Tensor) -> tuple[Runs, Any]:
    """What each module gave for a batch, each tensor a point in the graph of the model's answer."""
    runs: Runs = {name: _Run() for name in modules}
    count = iter(range(10**9))
    with ExitStack() as stack:
        stack.enter_context(_undisturbed(model, x))
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(partial(_watch, runs[name], count)).remove)
        return runs, answer(model, x)


def _watch(run: _Run, count: Iterator[int], module: nn.Module, args: Any, output: Any) -> Tensor | None:
    run.order = next(count)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        run.outputs.append(output)
        return None
    point = output if output.requires_grad else output.detach().requires_grad_()
    run.outputs.append(point)
    return point.clone()  # what follows may work in place


@dataclass(frozen=True)
class _Choice:
    """Which of the modules that were watched are the stages.

    Attributes:
        few, many: what they did with the smaller and the larger batch.
        answer: the model's, for the larger.
    """

    few: Runs
    many: Runs
    answer: Any

    def stages(self) -> Stages:
        top = ""
        while len(ran := list(filter(self._ran, self._parts[top]))) == 1 and any(
            map(self._ran, self._parts[ran[0]])
        ):
            top = ran[0]
        found, left = self._walk(top)
        leaves = [
            n for n, run in self.many.items() if run.outputs and not any(map(self._ran, self._parts[n]))
        ]
        last = max(leaves, key=self._order, default="")
        kept = [name for name in found if not _within(last, name) and not self._head(name)]
        return Stages((INPUT, *sorted(kept, key=self._order)), tuple(left))

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        """The modules right inside each."""
        parts: dict[str, list[str]] = {name: [] for name in ("", *self.many)}
        for name in self.many:
            parts[next(outer for outer in _around(name) if outer in parts)].append(name)
        return parts

    def _order(self, name: str) -> int:
        return self.many[name].order

    def _ran(self, name: str) -> bool:
        return bool(self.many[name].outputs) or any(map(self._ran, self._parts[name]))

    def _walk(self, top: str) -> tuple[list[str], list[tuple[str, str]]]:
        found, left = [], []
        for name in self._parts[top]:
            if not (why := self._why_not(name)):
                found.append(name)
                continue
            inner, missing = self._walk(name)
            found += inner
            left += missing if inner else [(name, why)]
        return found, left

    def _why_not(self, name: str) -> str:
        for size, runs in zip(SIZES, (self.few, self.many), strict=True):
            outputs = runs[name].outputs
            if len(outputs) != 1:
                return f"ran {len(outputs)} times" if outputs else "did not run"
            output = outputs[0]
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return f"gives {type(output).__name__}"
            if output.shape[:1] != (size,):
                return f"gives {list(output.shape)} for {size} samples"
        return "" if name in self._reached else "is no part of the scores"

    @cached_property
    def _scores(self) -> list[Tensor]:
        return _points(tree_leaves(self.answer))

    @cached_property
    def _reached(self) -> set[str]:
        """The modules whose output has a gradient from the scores; all, where nothing has one."""
        if not self._scores:
            return set(self.many)
        single = [name for name, run in self.many.items() if len(run.outputs) == 1 and _points(run.outputs)]
        reached = _connected(self._scores, [self.many[name].outputs[0] for name in single])
        return {name for name, there in zip(single, reached, strict=True) if there}

    def _head(self, name: str) -> bool:
        """Whether it gives scores: no module with parameters that ran later takes them in."""
        point = self.many[name].outputs[0]
        if point.shape not in [scores.shape for scores in self._scores]:
            return False
        later = [
            output
            for other, run in self.many.items()
            if run.order > self._order(name) and not _within(name, other)
            for output in run.outputs
        ]
        return not _connected(_points(later), [point])[0]


def _points(values: list[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]


def _connected(ends: list[Tensor], points: list[Tensor]) -> list[bool]:
    if not ends or not points:
        return [False] * len(points)
    ones = [torch.ones_like(end) for end in ends]
    found = torch.autograd.grad(ends, points, ones, retain_graph=True, allow_unused=True)
    return [gradient is not None for gradient in found]


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")
