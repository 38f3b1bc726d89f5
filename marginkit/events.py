"""How long loops report their progress, without knowing who looks on."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")
Tell = Callable[..., None]  # hears of events: tell("batch", samples=128, seconds={...})


@runtime_checkable
class Track(Protocol):
    """Passes items on unchanged while showing how far along they are."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """The items."""
        ...


def silent(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Shows nothing."""
    yield from items


def unheard(event: str, **about: Any) -> None:
    """Tells nobody."""


def both(first: Tell, second: Tell) -> Tell:
    """Tells two listeners."""

    def tell(event: str, **about: Any) -> None:
        first(event, **about)
        second(event, **about)

    return tell
