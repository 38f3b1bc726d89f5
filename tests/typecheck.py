"""How shapes and types are checked under test: as beartype does, with an int where a float will do.

Each function on its first calls of every test: searches and branch and bound make the same calls thousands of
times, which took two thirds of the tests' time.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

from beartype import BeartypeConf, beartype

CALLS = 50
_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))
_calls: Counter[tuple[str, str]] = Counter()
_resting: list[Any] = []


def check(signature: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping asks for: the arguments' check of a function, and another of its result too."""
    strict, name = _strict(signature), (signature.__module__, signature.__qualname__)

    @wraps(strict)
    def counted(*args: Any, **kwargs: Any) -> Any:
        _calls[name] += 1
        if _calls[name] == 2 * CALLS:  # both checks count
            _rest(*name)
        return strict(*args, **kwargs)

    return counted


def begin_again() -> None:
    """Every function is checked from here on."""
    _calls.clear()
    while _resting:
        del _resting.pop().__no_type_check__


def _rest(module: str, qualname: str) -> None:
    """Tells jaxtyping to leave the function alone; those within functions are always checked."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = inspect.getattr_static(found, part, None)
    for inner in ("func", "fget", "__func__"):  # cached properties, properties, static and class methods
        found = getattr(found, inner, found)
    function = getattr(found, "__wrapped__", None)
    if inspect.isfunction(function):
        function.__no_type_check__ = True  # type: ignore[attr-defined]
        _resting.append(function)
