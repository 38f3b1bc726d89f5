"""Hidden layers inside the graph: capture them, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.errors import MarginkitError, UsageError
from marginkit.guard.answer import answer, eagerly, original
from marginkit.guard.given import as_inputs, as_labels, refuse_quantised
from marginkit.guard.precision import precise, without_tf32
from marginkit.kinds import INPUT


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Gradients on, every module in eval mode and run as written; its own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad(), eagerly():
            yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class Guarded:
    """What a method works with, whatever it was given.

    Attributes:
        model: in eval mode, not compiled, with scores in float32 at least where that can be had.
        x, y: inputs of the model's precision, and classes; on one device.
        note: what the user should know of it; else empty.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    note: str = ""


@contextmanager
def measuring(model: nn.Module, x: Any, y: Any) -> Iterator[Guarded]:
    """`evaluating`, with model, inputs and labels in the form that measurements need; no autocast or TF32.

    Args:
        model: any module.
        x: floating-point inputs, a tensor or an array.
        y: labels: whole numbers of any type, or one-hot rows.

    Raises:
        MarginkitError: the inputs or labels are no such thing, or the model has no gradients (quantised).
    """
    eager = original(model)
    x = as_inputs(x)
    y = as_labels(y, x)
    refuse_quantised(eager)
    with evaluating(eager), torch.autocast(x.device.type, enabled=False), without_tf32():
        better = precise(eager, x)
        compiled = "measured as the module that torch.compile was given" if eager is not model else ""
        notes = "; ".join(note for note in (compiled, better.note) if note)
        yield Guarded(better.model, better.x, y, notes)


def capture(
    model: nn.Module, x: Float[Tensor, "n *d"], layers: Sequence[str], *, inplace: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Runs the model and returns its scores with the activations they were computed from.

    Args:
        model: any module; hooks are set for this one forward pass and taken off again.
        x: a batch.
        layers: names as in `named_modules()`, or `input` for x itself.
        inplace: whether some operation may work in place; where none does, nothing has to be copied.

    Returns:
        The model's output, and one tensor [n, ...] a layer, each in the graph of the output, so that
        `torch.autograd.grad` of the scores at it is defined even where the next operation works in place.

    Raises:
        MarginkitError: a layer is unknown, did not run exactly once, or did not give one tensor a sample; or
            as `answer`.
    """
    modules = dict(model.named_modules()) if any(layer != INPUT for layer in layers) else {}
    seen: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with ExitStack() as hooks:
        for layer in layers:
            if layer == INPUT:
                x = _leaf(x)
                seen[INPUT].append(x)
                x = x.clone() if inplace else x
                continue
            if layer not in modules or not layer:
                raise UsageError(f"unknown layer {layer!r}; this model has {listed(modules)}")
            if _out_of_sight(modules, layer):
                raise MarginkitError(
                    f"layer {layer!r} runs inside a scripted model, where gradients would be wrong there:"
                    " pass the original module, or take the input alone"
                )
            hook = partial(_record, seen[layer], layer, len(x), inplace)
            hooks.callback(modules[layer].register_forward_hook(hook).remove)
        with eagerly():
            scores = answer(model, x, copy=inplace and INPUT not in layers)
    for layer, tensors in seen.items():
        if len(tensors) != 1:
            raise MarginkitError(
                f"layer {layer!r} ran {len(tensors)} times in one forward pass; name one that runs once"
            )
    if not scores.requires_grad:
        scores = _leaf(scores)  # nothing in the model has a gradient: it is zero, not an error
    return scores, [seen[layer][0] for layer in layers]


def closed(module: nn.Module) -> bool:
    """Whether what is inside it runs out of hooks' sight: scripted or traced."""
    return isinstance(module, torch.jit.ScriptModule)


def unseen(module: nn.Module) -> bool:
    """Whether it can't have a hook itself: scripted."""
    return type(module).register_forward_hook is not nn.Module.register_forward_hook


def compiled(module: nn.Module) -> bool:
    """Whether it came from `torch.compile` or was compiled in place."""
    return "_orig_mod" in dict(module.named_children()) or module._compiled_call_impl is not None


def _out_of_sight(modules: dict[str, nn.Module], layer: str) -> bool:
    parts = layer.split(".")
    around = [modules[".".join(parts[:i])] for i in range(len(parts))]
    return unseen(modules[layer]) or any(map(closed, around))


def _record(
    seen: list[Tensor], layer: str, n: int, inplace: bool, module: nn.Module, args: Any, output: Any
) -> Tensor:
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape[:1] != (n,):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise MarginkitError(
            f"layer {layer!r} gives {found}; expected one floating-point tensor with {n} samples first"
        )
    activation = output if output.requires_grad else _leaf(output)
    seen.append(activation)
    return activation.clone() if inplace else activation


def _leaf(x: Tensor) -> Tensor:
    if x.requires_grad:
        return x
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def listed(modules: dict[str, nn.Module]) -> str:
    """The names of layers there are, for a message."""
    names = [INPUT, *[name for name in modules if name]]
    return ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
