"""Printing: results to stdout, progress and remarks to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from marginkit.events import Tell, Track

T = TypeVar("T")


def show(renderables: Iterable[RenderableType], quiet: bool) -> None:
    """Prints to stdout; 80 columns wide where it is not a terminal."""
    if quiet:
        return
    from rich.console import Console

    from marginkit.files.untrusted import printable

    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 80)
    console.on_broken_pipe = _stop_reading  # type: ignore[method-assign]
    for renderable in renderables:
        console.print(printable(renderable) if isinstance(renderable, str) else renderable, markup=False)


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


def bars(quiet: bool) -> Track:
    """One progress bar on stderr; none where that is not a terminal."""
    from marginkit.events import silent

    return silent if quiet or not sys.stderr.isatty() else _bar


def _bar(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description, total, console=Console(stderr=True), transient=True)


def speaks() -> bool:
    """Whether this is the process that prints: under torchrun the first one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def meters(quiet: bool) -> Iterator[Tell]:
    """A bar for each method on stderr, with its rate and the time it still needs; none without a terminal."""
    from marginkit.events import unheard

    if quiet or not sys.stderr.isatty():
        yield unheard
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    words = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    words.append(TextColumn("{task.fields[pace]}"))
    bars: dict[str, Any] = {}
    took: dict[str, float] = {}
    with Progress(*words, console=Console(stderr=True), transient=True) as progress:

        def tell(event: str, **about: Any) -> None:
            if event == "begun":
                for column, total in about["samples"].items():
                    bars[column] = progress.add_task(column, total=total, pace="")
            for column, seconds in about["seconds"].items() if event == "batch" else ():
                took[column] = took.get(column, 0.0) + seconds
                bar = bars[column]
                progress.advance(bar, about["samples"])
                progress.update(bar, pace=_pace(progress.tasks[bar], took[column]))

        yield tell


def _pace(task: Any, seconds: float) -> str:
    """Samples a second of the method's own time, and how much of that it still needs."""
    from datetime import timedelta

    if not (task.completed and seconds):
        return ""
    left = timedelta(seconds=round(task.remaining * seconds / task.completed))
    return f"{task.completed / seconds:.3g}/s, {left} left"
