"""Printing: results to stdout, progress and remarks to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

    from marginkit.events import Event, OnEvent


def show(renderables: Iterable[RenderableType], quiet: bool | int) -> None:
    """Prints to stdout; 80 columns wide where it is not a terminal."""
    if quiet:
        return
    from rich.console import Console

    from marginkit.files.untrusted import printable

    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 80)
    console.on_broken_pipe = _stop_reading  # type: ignore[method-assign]
    for renderable in renderables:
        console.print(printable(renderable) if isinstance(renderable, str) else renderable, markup=False)


def show_answer(
    answer: RenderableType,
    details: Iterable[RenderableType],
    written: Sequence[str],
    *,
    quiet: int,
    silent: bool = False,
) -> None:
    """The answer last, where the eye is; alone where quiet, nothing where quiet twice or silent."""
    before = [] if quiet else [*details, *written]
    show([*before, *([""] if before else []), answer], silent or quiet > 1)


@contextmanager
def unread() -> Iterator[None]:
    """Whoever read our output, such as `head`, may have read enough: what is left to say is dropped."""
    try:
        yield
    except BrokenPipeError:
        _stop_reading()


def _stop_reading() -> None:
    with suppress(OSError, ValueError):  # a stream without a file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def streams() -> Iterator[None]:
    """Output that takes every text: where there is none, and where a terminal knows ASCII only."""
    with ExitStack() as closing:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                setattr(sys, name, closing.enter_context(open(os.devnull, "w")))
                closing.callback(setattr, sys, name, None)
            elif hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        yield


def speaks() -> bool:
    """Whether this is the process that prints: under torchrun the first one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def bars(quiet: bool | int) -> Iterator[OnEvent]:
    """Bars on stderr, a method's with its rate and the time it still needs; none without a terminal."""
    from marginkit.events import unheard

    if quiet or not speaks() or not sys.stderr.isatty():
        yield unheard
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    words = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    words.append(TextColumn("{task.fields[pace]}"))
    with Progress(*words, console=Console(stderr=True), transient=True) as progress:
        yield Bars(progress)


class Bars:
    """Shows events as bars: one a method, one for whatever else is under way."""

    def __init__(self, display: Progress) -> None:
        """In rich's display."""
        self.display = display
        self.bars: dict[str, Any] = {}
        self.took: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Hears an event."""
        from marginkit import events

        match event:
            case events.Begun(samples=samples):
                self._clear()
                for name, total in samples.items():
                    self._show(name, 0, total)
            case events.BatchDone(samples=samples, seconds=seconds):
                for name, spent in seconds.items():
                    self._advance(name, samples, spent)
            case events.Progress(task=task, done=done, total=total):
                self._show(task, done, total)
                row = next(row for row in self.display.tasks if row.id == self.bars[task])
                self.display.update(row.id, pace=_left(row, row.elapsed or 0.0))
                if done >= total:
                    self.display.remove_task(self.bars.pop(task))
            case events.Working(task=task, passes=passes, limit=limit):
                self._work(task, passes, limit)
            case events.Checked(check=check) if check in self.bars:
                self.display.remove_task(self.bars.pop(check))
            case events.Narrowed(closed=closed):
                for norm, (done, total) in closed.items():
                    self._show(f"{norm} closed", done, total)
            case _:
                pass

    def _clear(self) -> None:
        for bar in self.bars.values():
            self.display.remove_task(bar)
        self.bars.clear()
        self.took.clear()

    def _work(self, name: str, passes: int, limit: int | None) -> None:
        """In the task's own bar; a method's counts samples, a check's passes."""
        if limit is not None:
            self._show(name, min(passes, limit), limit)
        elif name in self.bars:
            self.display.update(self.bars[name], pace=f"{passes:,} passes")

    def _show(self, name: str, done: int, total: int) -> None:
        if name not in self.bars:
            self.bars[name] = self.display.add_task(name, total=total, pace="")
        self.display.update(self.bars[name], completed=done)

    def _advance(self, name: str, samples: int, seconds: float) -> None:
        self.took[name] = self.took.get(name, 0.0) + seconds
        self.display.advance(self.bars[name], samples)
        task = next(task for task in self.display.tasks if task.id == self.bars[name])
        self.display.update(task.id, pace=_pace(task, self.took[name]))


def _pace(task: Any, seconds: float) -> str:
    """Samples a second of the method's own time, and how much of that it still needs."""
    return f"{task.completed / seconds:.3g}/s, {_left(task, seconds)}" if task.completed and seconds else ""


def _left(task: Any, seconds: float) -> str:
    """The time that the rest takes, going by that of what is done."""
    from datetime import timedelta

    if not (task.completed and seconds):
        return ""
    return f"{timedelta(seconds=round(task.remaining * seconds / task.completed))} left"
