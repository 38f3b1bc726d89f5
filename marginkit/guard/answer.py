"""The one place where a model is called: what it is handed, what counts as its scores, and how it fails."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from marginkit.errors import MarginkitError, MethodError
from marginkit.guard.casts import lift

TYPES = re.compile(r"dtype|scalar type|\b(Float|Double|Half|BFloat16|Char|Byte|Long|Int)\b")


def answer(model: nn.Module, x: Shaped[Tensor, "n *d"], *, copy: bool = True) -> Tensor:
    """The model's scores of a batch.

    The model gets a copy of x and may write into it. Its answer may be a tensor; or a tuple, a list, a
    mapping or an object that holds the scores: by the name `logits`, else as its first or only [n, classes].
    It never sees an empty batch: no samples have no scores, of as many classes as one sample has.

    Args:
        model: any module.
        x: a batch.
        copy: False where x is a copy already.

    Raises:
        MethodError: the model fails; the message names the module in which it does.
        MarginkitError: it answers with nothing that could be scores.
    """
    if not len(x):  # models divide by the batch size, and reshape to [n, -1]
        return answer(model, x.new_zeros(1, *x.shape[1:]))[:0]
    try:
        with lift(model) or nullcontext():
            found = model(x.clone() if copy else x)
    except Exception as error:
        if isinstance(error, MarginkitError) or out_of_memory(error):
            raise
        raise MethodError(_failure(model, x, error)) from error
    return scores_of(found, len(x))


def scores_of(found: Any, n: int) -> Tensor:
    """The scores of n samples out of what a model answers with; as `answer`."""
    return found if type(found) is Tensor and found.is_floating_point() else _scores(found, n)


def eagerly() -> AbstractContextManager[Any]:
    """Runs what torch.compile made as it was written: a compiled graph allows one backward pass only."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and loading it takes seconds
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def original(model: nn.Module) -> nn.Module:
    """The module that torch.compile was given; another one is itself."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


def out_of_memory(error: Exception) -> bool:
    """Whether a GPU, or PyTorch's allocator for the CPU, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _scores(found: Any, n: int) -> Tensor:
    named = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if named is not None and named is not found:
        return _scores(named, n)
    if isinstance(found, Tensor):
        if not found.is_floating_point():
            raise MarginkitError(
                f"the model answers with {str(found.dtype).removeprefix('torch.')}; expected floating-point"
                " logits: give what it computes before it rounds or decides"
            )
        return found.as_subclass(Tensor)
    parts: list[Any] = list(found.values() if isinstance(found, Mapping) else _sequence(found))
    rows = [part for part in parts if isinstance(part, Tensor) and part.shape[:1] == (n,) and part.ndim == 2]
    if len(rows) == 1 or (rows and rows[0] is parts[0] and not isinstance(found, Mapping)):
        return _scores(rows[0], n)
    raise MarginkitError(
        f"the model answers with {_described(found)}; expected a tensor [{n}, classes] of logits, or"
        " one named 'logits': wrap the model so that it returns its logits alone"
    )


def _sequence(found: Any) -> list[Any]:
    if isinstance(found, tuple | list):
        return list(found)
    return list(vars(found).values()) if hasattr(found, "__dict__") else []


def _described(found: Any) -> str:
    name = type(found).__name__
    if isinstance(found, Mapping):
        return f"a {name} of " + (
            ", ".join(f"{key!r}: {_shape(part)}" for key, part in found.items()) or "nothing"
        )
    return f"a {name} of {', '.join(map(_shape, _sequence(found))) or 'nothing'}"


def _shape(part: Any) -> str:
    return str(list(part.shape)) if isinstance(part, Tensor) else type(part).__name__


def _failure(model: nn.Module, x: Tensor, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines and isinstance(model, torch.jit.ScriptModule) else (lines or [""])[0]
    kind = type(error).__name__
    given = f"{str(x.dtype).removeprefix('torch.')} inputs {list(x.shape)}"
    types = {str(p.dtype).removeprefix("torch.") for p in (*model.parameters(), *model.buffers())}
    advice = "call it on such inputs by yourself to see the whole error"
    if TYPES.search(reason):
        weights = " and ".join(sorted(types)) or "none"
        advice = f"its weights are {weights}: give inputs of that type, and make tensors inside of it too"
    return f"the model fails {_place(model, error)} on {given}, {kind}: {reason[:200]}; {advice}"


def _place(model: nn.Module, error: Exception) -> str:
    """The innermost module whose code was running."""
    names = {id(module): name for name, module in model.named_modules()}
    where = "in its own forward"
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if names.get(id(owner)):
            where = f"in {names[id(owner)]} ({type(owner).__name__})"
        trace = trace.tb_next
    return where
