"""Printing: results to stdout, progress and remarks to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from marginkit.progress import Track

T = TypeVar("T")


def show(renderables: Iterable[RenderableType], quiet: bool) -> None:
    """Prints to stdout; 80 columns wide where it is not a terminal."""
    if quiet:
        return
    from rich.console import Console

    from marginkit.untrusted import printable

    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 80)
    for renderable in renderables:
        console.print(printable(renderable) if isinstance(renderable, str) else renderable, markup=False)


def bars(quiet: bool) -> Track:
    """One progress bar on stderr; none where that is not a terminal."""
    from marginkit.progress import silent

    return silent if quiet or not sys.stderr.isatty() else _bar


def _bar(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description, total, console=Console(stderr=True), transient=True)
