"""VNN-LIB files: a box of inputs, and the class that is to stay the first within it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from marginkit.errors import MarginkitError
from marginkit.files.untrusted import printable

LARGEST = 2**28  # characters of one file
DEEPEST = 60  # lists in lists
EXPECTED = "expected (or (and (>= Y_j Y_c)) ...) over all classes j but one, c: that the label c stays"
TOKENS = re.compile(r"[()]|[^\s()]+")
Form = Any  # a word, or a list of forms


@dataclass(frozen=True)
class Instance:
    """A property: within the box the label stays.

    Attributes:
        path: of the file.
        low, high: the box, float64 [features].
        label: the class that stays.
        classes: how many there are.
    """

    path: Path
    low: np.ndarray
    high: np.ndarray
    label: int
    classes: int


def read_instance(path: Path) -> Instance:
    """A file of bounds on X_0, X_1, ... and one assertion that another class than Y_c wins.

    Raises:
        MarginkitError: it is not readable, says something else, or leaves an input without bounds.
    """
    names: set[str] = set()
    low: dict[int, float] = {}
    high: dict[int, float] = {}
    pairs: set[tuple[int, int]] = set()
    for line, form in _forms(path, _text(path)):
        if form[:1] == ["declare-const"] and len(form) == 3:
            names.add(str(form[1]))
        elif form[:1] == ["assert"] and len(form) == 2:
            if "Y_" not in _shown(form):
                _bound(path, line, form[1], low, high)
            elif pairs:
                raise MarginkitError(f"{path}, line {line}: a second assertion on the scores; {EXPECTED}")
            else:
                pairs = set(_rivals(path, line, form[1]))
        else:
            raise MarginkitError(f"{path}, line {line}: {_cut(form)} is not read here; {EXPECTED}")
    inputs, classes = (_count(path, names, letter) for letter in "XY")
    if missing := [i for i in range(inputs) if i not in low or i not in high]:
        raise MarginkitError(
            f"{path}: X_{missing[0]} has no bounds on both sides; expected them for all inputs"
        )
    labels = {winner for _, winner in pairs}
    rivals = {rival for rival, _ in pairs}
    if len(labels) != 1 or rivals != set(range(classes)) - labels:
        found = ", ".join(f"Y_{rival} over Y_{label}" for rival, label in sorted(pairs)[:4]) or "nothing"
        raise MarginkitError(f"{path} asserts {found} of {classes} classes; {EXPECTED}")
    lows, highs = (np.array([ends[i] for i in range(inputs)]) for ends in (low, high))
    if (wrong := np.flatnonzero(lows > highs)).size:
        i = int(wrong[0])
        raise MarginkitError(f"{path}: X_{i} runs from {lows[i]:.9g} to {highs[i]:.9g}; expected low <= high")
    return Instance(path, lows, highs, labels.pop(), classes)


def _text(path: Path) -> str:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise MarginkitError(f"{path} has more than {LARGEST:,} characters")
        return content.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise MarginkitError(f"{path} is no readable VNN-LIB file: {printable(str(error))}") from error


def _forms(path: Path, text: str) -> Iterator[tuple[int, list[Form]]]:
    """The outermost lists, each with the line it begins on."""
    stack: list[list[Form]] = []
    began = 0
    for number, line in enumerate(text.splitlines(), 1):
        for token in TOKENS.findall(line.partition(";")[0]):
            if token == "(":
                began = began if stack else number
                stack.append([])
                if len(stack) > DEEPEST:
                    raise MarginkitError(f"{path}, line {number}: {DEEPEST} parentheses are open; {EXPECTED}")
            elif not stack:
                raise MarginkitError(f"{path}, line {number}: {_cut(token)} stands alone; expected (...)")
            elif token != ")":
                stack[-1].append(token)
            else:
                done = stack.pop()
                if stack:
                    stack[-1].append(done)
                else:
                    yield began, done
    if stack:
        raise MarginkitError(f"{path}, line {began}: a parenthesis that is never closed")


def _bound(path: Path, line: int, form: Form, low: dict[int, float], high: dict[int, float]) -> None:
    """Takes in `(<= X_i 0.5)`, `(>= 0.5 X_i)`, or several with `and`; of two bounds the narrower."""
    if form[:1] == ["and"]:
        for part in form[1:]:
            _bound(path, line, part, low, high)
        return
    sides = [_number(side) for side in form[1:]]
    if form[:1] not in (["<="], [">="]) or len(sides) != 2 or sum(side is None for side in sides) != 1:
        raise MarginkitError(f"{path}, line {line}: {_cut(form)} is no bound; expected (<= X_i 0.5)")
    place = 0 if sides[0] is None else 1
    value = sides[1 - place]
    assert value is not None
    i = _index(path, line, form[1 + place], "X")
    if (form[0] == "<=") == (place == 0):
        high[i] = min(value, high.get(i, np.inf))
    else:
        low[i] = max(value, low.get(i, -np.inf))


def _rivals(path: Path, line: int, form: Form) -> Iterator[tuple[int, int]]:
    """(j, c) for every way in which class j is to win over c."""
    if form[:1] == ["or"] and len(form) > 1:
        for part in form[1:]:
            yield from _rivals(path, line, part)
    elif form[:1] == ["and"] and len(form) == 2:
        yield from _rivals(path, line, form[1])
    elif form[:1] in ([">="], [">"], ["<="], ["<"]) and len(form) == 3:
        winner, loser = (_index(path, line, side, "Y") for side in form[1:])
        yield (winner, loser) if form[0][0] == ">" else (loser, winner)
    else:
        raise MarginkitError(f"{path}, line {line}: {_cut(form)} is not read here; {EXPECTED}")


def _number(form: Form) -> float | None:
    if isinstance(form, list) and form[:1] == ["-"] and len(form) == 2:
        inner = _number(form[1])
        return None if inner is None else -inner
    try:
        value = float(form)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _index(path: Path, line: int, name: Form, letter: str) -> int:
    found = re.fullmatch(rf"{letter}_(\d{{1,9}})", name) if isinstance(name, str) else None
    if found is None:
        raise MarginkitError(
            f"{path}, line {line}: {_cut(name)} stands where {letter}_0, {letter}_1, ... may"
        )
    return int(found.group(1))


def _count(path: Path, names: set[str], letter: str) -> int:
    """How many X or Y are declared."""
    count: int = sum(name.startswith(f"{letter}_") for name in names)
    if not count or any(f"{letter}_{i}" not in names for i in range(count)):
        raise MarginkitError(
            f"{path} declares {count} names {letter}_...; expected {letter}_0, {letter}_1, ..."
        )
    return count


def _shown(form: Form) -> str:
    """Text of a form; what is nested beyond any property's depth is left out."""
    words: list[str] = []
    stack: list[Form] = [form]
    while stack and len(words) < 10_000:
        top = stack.pop()
        if isinstance(top, list):
            stack += [")", *reversed(top), "("]
        else:
            words.append(top)
    return " ".join(words).replace("( ", "(").replace(" )", ")")


def _cut(form: Form) -> str:
    text = printable(_shown(form))
    return text if len(text) <= 80 else text[:77] + "..."
