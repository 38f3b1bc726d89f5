"""The nouns of a measurement: the threat, and the two forms an answer takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from marginkit.errors import UsageError
from marginkit.kinds import Kind
from marginkit.norms import DISTANCES, Box, Norm, Vectors

Bound = float | Tensor | None
MASK = "expected true where a feature may change, false elsewhere, for at least one"
SLACK = 1e-3  # of a grid step: what rounding may have done to a point of the grid


@dataclass(frozen=True)
class ThreatOptions:
    """What a `Threat` consists of, which describes it."""

    norm: Norm
    low: Bound = 0.0
    high: Bound = 1.0
    mask: Tensor | None = None
    levels: int | None = None


class Threat(ThreatOptions):
    """What may be done to an input.

    Attributes:
        norm: how a displacement is measured; given as a Norm or by its name.
        low, high: the box inputs live in, in raw input units: a number, a tensor that broadcasts to one
            sample (per-feature bounds), or None for no bound.
        mask: True where a feature may change, broadcast to one sample; None lets all change.
        levels: witnesses must lie on the grid of so many equal steps from low to high (255 for 8-bit
            images); None for no grid.
    """

    def __init__(
        self, norm: Any, low: Any = 0.0, high: Any = 1.0, mask: Any = None, levels: int | None = None
    ) -> None:
        """Takes a norm by its name and arrays as tensors.

        Raises:
            UsageError: an unknown norm, or a box or a mask that can't be meant.
        """
        super().__init__(
            _norm(norm),
            _bound("low", low),
            _bound("high", high),
            None if mask is None else _mask(mask),
            levels,
        )
        if self.low is None or self.high is None:
            return
        numbers = not isinstance(self.low, Tensor) and not isinstance(self.high, Tensor)
        if self.low >= self.high if numbers else bool((_cpu(self.low) > _cpu(self.high)).any()):
            raise UsageError(
                f"the box runs from {_words(self.low)} to {_words(self.high)}: give a lower bound below the"
                " upper one"
            )

    def room(self, x: Vectors) -> tuple[Box, Box]:
        """How far each feature of x may move down (<= 0) and up (>= 0); None, None where nothing binds."""
        if self.low is None and self.high is None and self.mask is None:
            return None, None
        low = self._bound(self.low, -torch.inf, x) - x
        high = self._bound(self.high, torch.inf, x) - x
        if self.mask is not None:
            free = self._fitting("mask", self.mask, x)
            low, high = torch.where(free, low, 0), torch.where(free, high, 0)
        return low.clamp(max=0), high.clamp(min=0)

    def clip(self, x: Vectors, moved: Vectors) -> Vectors:
        """`moved` put back into the box around x to the last bit, frozen features restored."""
        inside = torch.clamp(
            moved, self._bound(self.low, -torch.inf, x), self._bound(self.high, torch.inf, x)
        )
        return inside if self.mask is None else torch.where(self._fitting("mask", self.mask, x), inside, x)

    def on_grid(self, moved: Vectors, toward: Vectors | None = None) -> Vectors:
        """The nearest points of the grid, or the next ones in the direction `toward`."""
        if self.levels is None:
            return moved
        if not isinstance(self.low, float | int) or not isinstance(self.high, float | int):
            raise UsageError(f"a grid of {self.levels} steps needs a box of two numbers (--bounds LOW,HIGH)")
        low, width = float(self.low), float(self.high) - float(self.low)
        position = (moved - low) * (self.levels / width)
        if toward is None:
            rounded = position.round()
        else:
            rounded = torch.where(toward > 0, (position - SLACK).ceil(), (position + SLACK).floor())
            rounded = torch.where(toward == 0, position.round(), rounded)
        return rounded * width / self.levels + low

    def contains(self, x: Vectors) -> Bool[Tensor, "n"]:
        """Which samples lie in the box."""
        low, high = self._bound(self.low, -torch.inf, x), self._bound(self.high, torch.inf, x)
        return ((x >= low) & (x <= high)).flatten(1).all(1)

    def _bound(self, bound: Bound, default: float, x: Tensor) -> Tensor:
        if not isinstance(bound, Tensor):
            return torch.tensor(default if bound is None else bound, dtype=x.dtype, device=x.device)
        return self._fitting("bound", bound, x).to(x.dtype)

    def require_fit(self, x: Vectors) -> None:
        """Refuses a box or a mask that is of other inputs."""
        for what, given in (("bound", self.low), ("bound", self.high), ("mask", self.mask)):
            if isinstance(given, Tensor):
                self._fitting(what, given, x)

    @staticmethod
    def _fitting(what: str, given: Tensor, x: Tensor) -> Tensor:
        """On the inputs' device, if it broadcasts to one sample."""
        sizes = zip(reversed(given.shape), reversed(x.shape[1:]), strict=False)
        if given.ndim >= x.ndim or any(size not in (1, whole) for size, whole in sizes):
            raise UsageError(
                f"the threat's {what} has shape {list(given.shape)}, inputs have {list(x.shape[1:])}: give"
                " one entry a feature"
            )
        return given.to(x.device)


def _norm(given: Any) -> Norm:
    if isinstance(given, Norm):
        return given
    if not isinstance(given, str) or given not in DISTANCES:
        raise UsageError(f"unknown norm {given!r}; choose from {', '.join(DISTANCES)}")
    return DISTANCES[given]


def _bound(end: str, given: object) -> Bound:
    """A number, a tensor of numbers, or None."""
    if given is None:
        return None
    try:
        found = given if isinstance(given, Tensor) else torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{end} is {given!r}; expected a number, one a feature, or None") from None
    if found.is_complex() or bool(found.isnan().any()):
        raise UsageError(f"{end} is {_words(found)}; expected a number, one a feature, or None")
    if isinstance(given, Tensor | float | int):
        return given
    return found if found.ndim else float(found)


def _mask(given: object) -> Tensor:
    """Truth values, or the numbers 0 and 1."""
    try:
        found = given if isinstance(given, Tensor) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"the mask is {type(given).__name__}; {MASK}") from None
    if found.dtype != torch.bool and not bool(((found == 0) | (found == 1)).all()):
        raise UsageError(f"the mask has {str(found.dtype).removeprefix('torch.')} other than 0 and 1; {MASK}")
    if not bool(found.any()):
        raise UsageError(f"the mask lets no feature change; {MASK}")
    return found.bool()


def _cpu(bound: Bound) -> Tensor:
    return torch.as_tensor(bound, dtype=torch.float64, device="cpu")


def _words(bound: Bound) -> str:
    return f"a tensor {list(bound.shape)}" if isinstance(bound, Tensor) and bound.ndim else f"{bound}"


@dataclass(frozen=True)
class Bracket:
    """The true distance lies in [lower, upper].

    Attributes:
        lower: what is proved, float64; 0 where nothing is.
        upper: what was found, float64; inf where nothing was.
        status: `Status` codes.
        rival: the class on the other side of the boundary; -1 where none is known.
        witness: the adversarial inputs behind `upper` (NaN where there is none), or None for a proof.
        note: what the user should know of the column: why the method does not apply to the model, or how
            precisely it was measured; else empty.
    """

    lower: Float[Tensor, "n"]
    upper: Float[Tensor, "n"]
    status: Int[Tensor, "n"]
    rival: Int[Tensor, "n"]
    witness: Float[Tensor, "n *d"] | None = None
    note: str = ""

    @staticmethod
    def empty(x: Vectors) -> Bracket:
        """Of a batch without samples."""
        none = torch.zeros(0, dtype=torch.float64, device=x.device)
        whole = torch.zeros(0, dtype=torch.long, device=x.device)
        return Bracket(none, none, whole, whole, x)

    def placed(self, part: Bracket, rows: Tensor) -> Bracket:
        """With another answer for some samples; notes and precision are those of both."""
        found: dict[str, Tensor] = {}
        for name in ("lower", "upper", "status", "rival", "witness"):
            given = getattr(part, name)
            if given is not None:
                whole = getattr(self, name)
                found[name] = whole.to(torch.promote_types(whole.dtype, given.dtype), copy=True)
                found[name][rows] = given.to(found[name].dtype)
        notes = dict.fromkeys(note for note in (self.note, part.note) if note)
        return replace(self, **found, note="; ".join(notes))

    def part(self, rows: Tensor | slice) -> Bracket:
        """Of some samples."""
        witness = None if self.witness is None else self.witness[rows]
        return Bracket(
            self.lower[rows], self.upper[rows], self.status[rows], self.rival[rows], witness, self.note
        )


@dataclass(frozen=True)
class Estimate:
    """A predicted distance at each of several layers; it bounds nothing.

    Attributes:
        distance: float64; negative where the sample is misclassified.
        layers: the columns' names, in order.
        rival: the class whose boundary is predicted to be nearest.
        status: `Status` codes.
        note: as in `Bracket`.
    """

    distance: Float[Tensor, "n layers"]
    layers: tuple[str, ...]
    rival: Int[Tensor, "n layers"]
    status: Int[Tensor, "n layers"]
    note: str = ""


@runtime_checkable
class Closing(Protocol):
    """A method that goes on from what is known."""

    def close(
        self,
        model: nn.Module,
        x: Float[Tensor, "n *d"],
        y: Int[Tensor, "n"],
        threat: Threat,
        known: Bracket | None = None,
    ) -> Bracket:
        """Brackets no wider than the known ones."""
        ...


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass of options, called on a batch; `dataclasses.asdict` of it is its provenance."""

    kind: ClassVar[Kind]

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n *d"], y: Int[Tensor, "n"], threat: Threat
    ) -> Bracket | Estimate:
        """Answers for each sample of x, labelled y, independently of the others in the batch."""
        ...
