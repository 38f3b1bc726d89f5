"""Options given as text."""

from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import pytest

from marginkit.errors import UsageError
from marginkit.losses import LOSSES
from marginkit.methods import METHODS
from marginkit.options import choose, configure

pytestmark = pytest.mark.quick


@dataclass(frozen=True)
class Example:
    count: int = 1
    rate: float = 0.5
    limit: int | None = 3
    mode: Literal["fast", "tight"] = "fast"
    layers: tuple[str, ...] = ()
    gamma: float | tuple[float, ...] = 1.0
    exact: bool = False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ({"count": "12"}, 12),
        ({"rate": "1e-3"}, 1e-3),
        ({"rate": "2"}, 2.0),
        ({"limit": "none"}, None),
        ({"limit": "null"}, None),
        ({"mode": "tight"}, "tight"),
        ({"layers": "input,conv1"}, ("input", "conv1")),
        ({"layers": '["input"]'}, ("input",)),
        ({"layers": "input"}, ("input",)),
        ({"gamma": "1,2.5"}, (1.0, 2.5)),
        ({"gamma": "4"}, 4.0),
        ({"exact": "true"}, True),
        ({"count": 7}, 7),
    ],
)
def test_text_becomes_the_fields_type(text, value):
    found = configure(Example, "example", text)
    (name,) = text
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"count": "many"}, "example: option count is 'many'"),
        ({"count": "1.5"}, "example: option count is '1.5'"),
        ({"mode": "slow"}, "'fast' or 'tight'"),
        ({"limit": "-"}, "option limit is '-'"),
        ({"size": "1"}, "example has no option 'size'; it has count, rate, limit"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        configure(Example, "example", text)


def test_unknown_names_list_the_known():
    with pytest.raises(UsageError, match="unknown thing 'c'; choose from a, b"):
        choose({"a": Example, "b": Example}, "thing", "c")


@pytest.mark.parametrize("entry", [*METHODS.values(), *LOSSES.values()])
def test_what_is_configured_is_frozen(entry):
    made = entry()
    for field in fields(made):
        with pytest.raises(FrozenInstanceError):
            setattr(made, field.name, None)
    assert replace(made) == made


def test_nothing_frozen_is_written_to():
    for path in (Path(__file__).parent.parent / "marginkit").rglob("*.py"):
        assert "object.__setattr__" not in path.read_text(), path
