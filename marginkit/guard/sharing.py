"""Passes of the clean inputs that several methods and norms need, made once a batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class _Kept:
    model: nn.Module
    inputs: Sequence[Tensor]
    found: Any


_kept: ContextVar[dict[Hashable, list[_Kept]] | None] = ContextVar("kept", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Within it `once` computes once; nobody may change the model, and all is forgotten at its end."""
    before = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(before)


def once(what: Hashable, model: nn.Module, inputs: Sequence[Tensor], compute: Callable[[], T]) -> T:
    """What `compute` answers; inside `sharing` what it answered before of the same model and equal inputs.

    Whoever takes it must not write into it.
    """
    kept = _kept.get()
    if kept is None:
        return compute()
    entries = kept.setdefault(what, [])
    for entry in entries:
        if entry.model is model and _equal(entry.inputs, inputs):
            return entry.found  # type: ignore[no-any-return]
    found = compute()
    entries.append(_Kept(model, [part.clone() for part in inputs], found))
    return found


def _equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
        for a, b in zip(ours, theirs, strict=True)
    )
