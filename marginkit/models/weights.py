"""Weights as they are found in other people's files: which part, under which names, for which model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marginkit.errors import MarginkitError, UsageError

State = dict[str, Tensor]
DEEPEST = 3  # dicts within dicts in which weights are looked for
COUNTERS = ("n_averaged", "total_ops", "total_params")  # of averages and of profilers
BESIDE = (
    "criterion",
    "loss",
    "loss_fn",
    "loss_func",
    "metric",
    "metrics",
    "optimizer",
)  # first parts of names


def refuse_state(path: Path, state: Any) -> None:
    """Refuses what is not a dict of tensors, each as large as what the file holds of it.

    A tensor of strides 0 looks a million times larger than it is, until it is copied.
    """
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise MarginkitError(f"{path} is neither a marginkit checkpoint nor a dict of weights")
    for name, value in state.items():
        if not isinstance(name, str) or not name.isprintable():
            raise MarginkitError(f"{path} has a weight called {ascii(name)[:60]}; expected a plain name")
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise MarginkitError(
                f"{path}: {name} is a {value.layout} tensor of {value.dtype}; expected a plain one"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise MarginkitError(
                f"{path}: {name} is {list(value.shape)}, but the file holds only"
                f" {value.untyped_storage().nbytes()} bytes of it"
            )


def find_states(plain: Mapping[str, Any]) -> dict[str, State]:
    """The dicts of tensors in a file's content, by their keys with dots between; the content's own is ``."""
    found: dict[str, State] = {}
    own = {key: value for key, value in plain.items() if isinstance(value, Tensor)}
    if own:
        found[""] = own
    found.update(_inner(plain, DEEPEST))
    return found


def _inner(plain: Mapping[str, Any], depth: int) -> Iterator[tuple[str, State]]:
    for key, value in plain.items():
        if not isinstance(key, str) or not key.isprintable() or not isinstance(value, dict) or not value:
            continue
        if all(isinstance(entry, Tensor) for entry in value.values()):
            yield key, value
        elif depth > 1 and all(isinstance(inner, str) for inner in value):
            yield from ((f"{key}.{name}", state) for name, state in _inner(value, depth - 1))


def fitted(
    path: Path, plain: Mapping[str, Any], wanted: Mapping[str, Tensor], key: str | None = None
) -> tuple[State, list[str]]:
    """The weights of a file under the names that a model has for them, and remarks for the user.

    Where weights lie is found by their names: the part of the file, and the prefix, under which most of the
    model's names are. What is not the model's is left, with a remark, where it lies outside that prefix or
    is known to be something else's. What lies inside is kept, for the caller to refuse.

    Args:
        path: of the file, for messages.
        plain: its content.
        wanted: the model's state.
        key: the part to take, as in the file; or the prefix.

    Raises:
        MarginkitError: there are no weights, or the model's are there more than once.
    """
    states = find_states(plain)
    if not states:
        refuse_state(path, None)
    around = _shared(wanted)
    inner = {name.removeprefix(around): value for name, value in wanted.items()}
    places = [
        _Place(name, prefix, state) for name, state in states.items() for prefix in _prefixes(state, inner)
    ]
    if key is not None:
        places = [place for place in places if key.rstrip(".") in place.names]
        if not places:
            raise UsageError(f"{path} has no weights {key!r}; it has {_list(states)}")
    most = max(place.fit(inner) for place in places)
    best = [place for place in places if place.fit(inner) == most]
    if 2 * most[0] < len(inner):  # other weights: shown as they are
        place = max((p for p in places if not p.prefix), key=lambda p: len(p.state), default=places[0])
        refuse_state(path, place.state)
        return dict(place.state), []
    place = best[0]
    if not all(place.equal(other, inner) for other in best):
        shown = ", ".join(place.names[-1] or "those at its top" for place in best)
        raise MarginkitError(f"{path} has these weights more than once: {shown}; choose with --weights-key")
    refuse_state(path, place.state)
    state, remarks = _renamed(place, inner, around)
    return {around + name: value for name, value in state.items()}, remarks


@dataclass(frozen=True)
class _Place:
    """Where weights may lie: a part of the file, and what stands before their names there."""

    part: str
    prefix: str
    state: State

    @property
    def names(self) -> list[str]:
        """What --weights-key may call it."""
        inner = self.prefix.rstrip(".")
        return [self.part, *([inner, f"{self.part}.{inner}".strip(".")] if inner else [])]

    def fit(self, wanted: Mapping[str, Tensor]) -> tuple[int, int]:
        """How many of the wanted names are there, and how many in the wanted shape."""
        there = [(self.state[self.prefix + n], v) for n, v in wanted.items() if self.prefix + n in self.state]
        return len(there), sum(found.shape == value.shape for found, value in there)

    def equal(self, other: _Place, wanted: Mapping[str, Tensor]) -> bool:
        """Whether both hold the same numbers."""
        pairs = [(self.state.get(self.prefix + n), other.state.get(other.prefix + n)) for n in wanted]
        return self is other or all(
            a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs
        )


def _shared(wanted: Mapping[str, Tensor]) -> str:
    """What stands before all the model's names: of a wrapper that files know nothing of."""
    names = list(wanted)
    shared = ""
    while names:
        first = names[0].removeprefix(shared).partition(".")
        if not first[1] or not all(name.startswith(f"{shared}{first[0]}.") for name in names):
            break
        shared += f"{first[0]}."
    return shared


def _prefixes(state: State, wanted: Mapping[str, Tensor]) -> list[str]:
    """What stands before the model's names in the file, nothing included."""
    last = {entry.rpartition(".")[2] for entry in wanted}
    found = {""}
    for entry in state:
        if not isinstance(entry, str) or entry.rpartition(".")[2] not in last:
            continue
        parts = entry.split(".")
        found |= {".".join(parts[:i]) + "." for i in range(1, len(parts)) if ".".join(parts[i:]) in wanted}
    return sorted(found, key=len)


def _list(states: Mapping[str, State]) -> str:
    return ", ".join(f"{name or 'those at its top'} ({len(state)} tensors)" for name, state in states.items())


def _renamed(place: _Place, wanted: Mapping[str, Tensor], around: str) -> tuple[State, list[str]]:
    """Without the prefix, and without what is another thing's."""
    remarks = []
    prefix = place.prefix
    kept = {name.removeprefix(prefix): v for name, v in place.state.items() if name.startswith(prefix)}
    outside = [name for name in place.state if not name.startswith(prefix)]
    others = [name for name in kept if name not in wanted and _foreign(name)]
    if prefix and prefix != around:
        whose = "the weights' names" if outside else "every weight's name"
        remarks.append(f"took the prefix {prefix!r} off {whose}")
    if left := [*outside, *(prefix + name for name in others)]:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        remarks.append(f"left out what is not the model's: {', '.join(left[:4])}{more}")
    state = {name: value for name, value in kept.items() if name not in others}
    for name, value in wanted.items():  # files older than PyTorch 0.4.1 have none
        if name.endswith("num_batches_tracked") and name not in state:
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
    return state, remarks


def _foreign(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] in COUNTERS or parts[0] in BESIDE


def classes_of(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], classes: int) -> int | None:
    """How many classes the weights are for, where that is all in which they differ from the model's.

    Args:
        state: as found.
        wanted: of the model, built for so many classes.
        classes: so many.
    """
    differing = [
        (state[name].shape, value.shape)
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    sizes = {tuple(found[:1]) for found, _ in differing}
    if len(sizes) != 1 or not all(
        len(found) == len(own) >= 1 and own[0] == classes and found[1:] == own[1:] for found, own in differing
    ):
        return None
    (size,) = sizes
    return int(size[0])
