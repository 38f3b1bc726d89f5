"""What long jobs tell whoever listens: one function hears typed events. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Begun:
    """A measurement begins.

    Attributes:
        samples: how many are to be measured, by the methods' names.
        batches: how many are to be done.
        kept: batches that an earlier run has done.
        host: the machine's name.
        versions: of what the numbers depend on.
        command: the command line; empty where there was none.
    """

    samples: Mapping[str, int]
    batches: int
    kept: int
    host: str
    versions: Mapping[str, str]
    command: Sequence[str] = ()


@dataclass(frozen=True)
class BatchDone:
    """Every method has answered for a batch: its first sample, its size, and each method's seconds."""

    first: int
    samples: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class OutOfMemory:
    """So many samples did not fit, and are done in halves; `column` says what was computed."""

    column: str
    samples: int


@dataclass(frozen=True)
class Failed:
    """A method raised an error on a batch."""

    column: str
    norm: str
    error: str


@dataclass(frozen=True)
class NothingNew:
    """The file has every column that is asked for."""

    file: str


@dataclass(frozen=True)
class Noted:
    """Something that the user should know of how it is measured, in a sentence."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The table is whole."""

    samples: int
    columns: Sequence[str]


@dataclass(frozen=True)
class Progress:
    """So many of all steps of a task are done."""

    task: str
    done: int
    total: int


@dataclass(frozen=True)
class Working:
    """A task goes on, told every second or so.

    Attributes:
        task: a method's name, or a check's.
        passes: how many samples have passed through the model for it, once forward and back.
        limit: how many it may take; None for no limit.
    """

    task: str
    passes: int
    limit: int | None = None


@dataclass(frozen=True)
class Checked:
    """One check of whether the measurement can be believed is done; as in `Verdict`, and its passes."""

    check: str
    raised: bool
    figure: float | None
    where: str
    note: str
    passes: int


@dataclass(frozen=True)
class Narrowed:
    """Some brackets are narrower: by norm, how many are closed, and how many there are."""

    closed: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class EpochDone:
    """An epoch of training is over, with these figures."""

    metrics: Mapping[str, float | int]


@dataclass(frozen=True)
class Reported:
    """What came of it all.

    Attributes:
        figures: a handful of numbers by name.
        text: the answer, as a terminal shows it.
        files: what was written.
    """

    figures: Mapping[str, float | int | None]
    text: str
    files: Sequence[str]


Event = (
    Begun
    | BatchDone
    | OutOfMemory
    | Failed
    | NothingNew
    | Noted
    | Finished
    | Progress
    | Working
    | Checked
    | Narrowed
    | EpochDone
    | Reported
)
OnEvent = Callable[[Event], None]


def unheard(event: Event) -> None:
    """Nobody listens."""


def both(first: OnEvent, second: OnEvent) -> OnEvent:
    """Two listeners as one."""

    def on_event(event: Event) -> None:
        first(event)
        second(event)

    return on_event


def tracked(items: Iterable[T], task: str, total: int, on_event: OnEvent) -> Iterator[T]:
    """The items, unchanged, with a `Progress` before the first one and after each."""
    on_event(Progress(task, 0, total))
    for done, item in enumerate(items, 1):
        yield item
        on_event(Progress(task, done, total))
