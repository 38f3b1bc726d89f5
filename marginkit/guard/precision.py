"""A model in a precision that distances can be told in, with its own weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from marginkit.errors import MarginkitError
from marginkit.guard.answer import answer
from marginkit.guard.casts import Watch, lifted_to, lower_than, mark, unknown


@dataclass(frozen=True)
class Lifted:
    """A model and inputs for it.

    Attributes:
        model, x: in float32 at least where that can be had.
        note: in words, what was done or could not be done; empty for nothing.
        rough: the type in which scores are computed all the same; None for float32 or float64.
    """

    model: nn.Module
    x: Tensor
    note: str = ""
    rough: torch.dtype | None = None


def precise(model: nn.Module, x: Shaped[Tensor, "n *d"]) -> Lifted:
    """The model and inputs as given, where all is float32 at least; else with the same weights in float32.

    One pass of one sample tells: weights, autocast inside forward, and casts at the end are all seen there. A
    model that is float64 otherwise is lifted to that.
    """
    if unknown(model) and len(x):
        _look(model, x)
    if lifted_to(model) is not None or not len(x):
        return Lifted(model, x)
    held = [p.dtype for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()]
    low = [dtype for dtype in (*held, x.dtype) if lower_than(torch.float32, dtype)]
    if not low:
        watch = Watch()
        with suppress(MarginkitError), watch, torch.no_grad():  # the pass of all samples says it better
            answer(model, x[:1])
        low = watch.below(torch.float32)
    if not low:
        return Lifted(model, x)
    name = str(low[0]).removeprefix("torch.")
    target = torch.float64 if torch.float64 in held else torch.float32
    try:
        better = lifted(model, x, target)
    except Exception as error:  # a model's own code may do anything
        note = (
            f"scores are computed in {name}, and not in {_name(target)} ({_line(error)}): distances are rough"
        )
        return Lifted(model, x.to(held[0]) if held else x, note, low[0])
    return Lifted(better, x.to(target), f"given in {name}, measured with the same weights in {_name(target)}")


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products and convolutions of float32 keep all their digits, on GPUs that would round to ten bits."""
    cudnn: Any = torch.backends.cudnn
    settings: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [(each, each.fp32_precision) for each in settings]
    try:
        for each, _ in before:
            each.fp32_precision = "ieee"
        yield
    finally:
        for each, precision in before:
            each.fp32_precision = precision


@dataclass(frozen=True)
class InFloat64:
    """Rows to do in float64, with this model; and why the others that need it can't be."""

    rows: Bool[Tensor, "n"]
    model: nn.Module
    note: str = ""


def in_float64(model: nn.Module, x: Shaped[Tensor, "n *d"], coarse: Bool[Tensor, "n"]) -> InFloat64:
    """The model in float64 for samples that float32 is too coarse for, where there are any and it can be."""
    none = torch.zeros_like(coarse)
    rough = lower_than(torch.float32, lifted_to(model) or torch.float32)  # on purpose: float64 judges it
    if rough or x.dtype is torch.float64 or not coarse.any():
        return InFloat64(none, model)
    try:
        return InFloat64(coarse, lifted(model, x, torch.float64))
    except Exception as error:  # a model's own code may do anything
        note = f"scores leave {_name(x.dtype)} too few digits, and float64 fails ({_line(error)})"
        return InFloat64(none, model, f"{note}: distances are rough")


def lifted(model: nn.Module, x: Shaped[Tensor, "n *d"], dtype: torch.dtype) -> nn.Module:
    """A copy with the same weights in another type, which computes in that type whatever it casts to.

    Raises:
        Exception: whatever copying the model, or running the copy forward and back, raises.
    """
    better = mark(copy.deepcopy(model).to(dtype), dtype)
    for module in better.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and lower_than(dtype, value.dtype):
                vars(module)[name] = value.to(dtype)
    _look(better, x)
    leaf = x[:1].detach().to(dtype).clone().requires_grad_()
    with torch.enable_grad():
        scores = answer(better, leaf)
        if lower_than(dtype, scores.dtype):
            raise TypeError(f"it answers in {_name(scores.dtype)} all the same")
        if scores.requires_grad:
            torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
    return better


def _look(model: nn.Module, x: Tensor) -> None:
    """Whether a marked copy casts to a lower type than its own, by one pass of one sample."""
    dtype = lifted_to(model)
    assert dtype is not None
    watch = Watch()
    mark(model, dtype, casts=False)
    try:
        with watch, torch.no_grad():
            answer(model, x[:1].to(dtype))
        mark(model, dtype, casts=bool(watch.below(dtype)))
    except MarginkitError:  # it mixes the types: lifting may mend that
        mark(model, dtype, casts=True)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model.

    Raises:
        MarginkitError: it can't be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a model's own code may do anything
        raise MarginkitError(
            f"the model can't be copied into another precision ({_line(error)}): leave --dtype away"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
