"""A copy of a model that computes the same with fewer operations: BatchNorm is part of the layer before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from marginkit.guard.answer import answer
from marginkit.guard.casts import lift, lifted_to

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LOOKS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero")  # how a forward pass decides by values
SAME = 1e-4  # of the scores' range, in float32: some hundred roundings

Pair = tuple[str, str]  # names of a layer and of the BatchNorm behind it


def folded(model: nn.Module, shape: torch.Size) -> nn.Module | None:
    """The copy; None where there is nothing to fold, or any doubt that it would be the same function.

    Folded is a BatchNorm in eval mode that alone takes what a convolution or a linear layer gives, where each
    of them runs once in a forward pass that looks at no values. On a CPU convolutions then take channels
    last, which is faster. Other weights are shared with the model, which stays as it is. The answer depends
    on the model and the shape only, never on the samples at hand.

    Args:
        model: in eval mode.
        shape: of one sample.
    """
    held = next((p for p in model.parameters() if p.is_floating_point()), None)
    if held is None or not any(type(module) in NORMS for module in model.modules()):
        return None
    if lift(model) is not None or lifted_to(model) not in (None, held.dtype):
        return None
    drawn = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(held)
    try:
        with torch.no_grad():
            pairs = _pairs(model, drawn)
            with torch.enable_grad():  # some code asks whether it is to be differentiated
                pairs = [pair for pair in _pairs(model, drawn.clone().requires_grad_()) if pair in pairs]
            scores = answer(model, drawn)
            for last in (True, False) if held.device.type == "cpu" else (False,):
                found = _copy(model, pairs, last) if pairs else None
                if found is not None and _same(scores, found, drawn):
                    return found
    except Exception:  # a model's own code may do anything
        pass
    return None


def _same(scores: Tensor, model: nn.Module, x: Tensor) -> bool:
    """Whether the model answers with these scores."""
    try:
        ours = answer(model, x)
    except Exception:  # some code wants its channels first
        return False
    rounding = SAME * torch.finfo(ours.dtype).eps / torch.finfo(torch.float32).eps
    extent = (scores.amax(1) - scores.amin(1)).amax()
    return ours.shape == scores.shape and bool((ours - scores).abs().amax() <= rounding * extent)


def _copy(model: nn.Module, pairs: list[Pair], channels_last: bool) -> nn.Module:
    """With those pairs folded."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, dict(shared))
    modules = dict(found.named_modules())
    for layer, norm in pairs:
        _fold(modules[layer], modules[norm])
    if channels_last:
        for module in modules.values():
            if type(module) is nn.Conv2d and "weight" in module._parameters:
                weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
                module.weight = nn.Parameter(weight, requires_grad=False)
    return found


def _fold(layer: Any, norm: Any) -> None:
    """The layer does what both do, and the norm nothing."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double()
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    bias = shift if layer.bias is None else shift + scale * layer.bias.double()
    layer.weight, layer.bias = (
        nn.Parameter(part.to(layer.weight.dtype), requires_grad=False) for part in (weight, bias)
    )
    norm.forward = _unchanged  # its class and its attributes may be looked at


def _unchanged(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class _Run:
    """One forward pass of a module: what it was given and what it gave."""

    given: Tensor
    gave: Tensor


def _pairs(model: nn.Module, x: Tensor) -> list[Pair]:
    """Layers whose only reader is a BatchNorm; none where the forward pass looks at values."""
    names = {name: m for name, m in model.named_modules() if _plain(m)}
    runs: dict[str, list[_Run]] = {name: [] for name in names}
    touched = _Touched()
    with _followed(names, runs, touched.path), touched:
        answer(model, x)
    if touched.looked:
        return []
    once = {name: found[0] for name, found in runs.items() if len(found) == 1}
    layers = {id(run.gave): name for name, run in once.items() if type(names[name]) in LAYERS}
    found = [
        (layers[id(run.given)], name)
        for name, run in once.items()
        if type(names[name]) in NORMS and id(run.given) in layers
    ]
    return [
        (layer, norm)
        for layer, norm in found
        if touched.only(once[layer].gave, {layer, norm})
        and all(touched.only(t, {layer}) for t in _held(names[layer]))
        and all(touched.only(t, {norm}) for t in _held(names[norm]))
    ]


def _plain(module: nn.Module) -> bool:
    """Whether it is a layer or norm of PyTorch's own, without hooks or changes of its own."""
    if type(module) not in (*LAYERS, *NORMS) or "forward" in vars(module):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    if any(hooks) or module._backward_pre_hooks or module._parameters.keys() != {"weight", "bias"}:
        return False
    if type(module) in LAYERS:
        return module._parameters["weight"] is not None
    return not module.training and all(
        module._buffers.get(f"running_{k}") is not None for k in ("mean", "var")
    )


def _held(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


@contextmanager
def _followed(names: dict[str, nn.Module], runs: dict[str, list[_Run]], path: list[str]) -> Iterator[None]:
    """Notes down the runs of modules, and in `path` which one is running."""

    def begin(name: str) -> Any:
        return lambda *_: path.append(name)

    def end(name: str) -> Any:
        def note(_: nn.Module, given: tuple[Tensor, ...], gave: Tensor) -> None:
            path.pop()
            runs[name].append(_Run(given[0], gave))

        return note

    with ExitStack() as hooks:
        for name, module in names.items():
            hooks.callback(module.register_forward_pre_hook(begin(name)).remove)
            hooks.callback(module.register_forward_hook(end(name)).remove)
        yield


class _Touched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which module's operations read or write which memory, those inside TorchScript too.

    Attributes:
        path: the modules that run.
        looked: whether values were looked at outside of tensors.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path: list[str] = []
        self.looked = False
        self._by: dict[int, set[str]] = {}
        self._alive: list[Tensor] = []  # or memory would be given out twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation itself."""
        found = func(*args, **(kwargs or {}))
        self.looked |= func._schema.name.partition("::")[2] in LOOKS
        for leaf in tree_leaves((args, kwargs, found)):
            if isinstance(leaf, Tensor):
                self._alive.append(leaf)
                self._by.setdefault(_memory(leaf), set()).add(self.path[-1] if self.path else "")
        return found

    def only(self, tensor: Tensor, modules: set[str]) -> bool:
        """Whether no other module's operations touched its memory."""
        return self._by.get(_memory(tensor), set()) <= modules


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
