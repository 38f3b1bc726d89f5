"""A function and its command do the same unless told otherwise."""

import inspect
from dataclasses import fields

import click
import pytest
from marginkit_cli.measure import measure as measure_command
from marginkit_cli.tighten import tighten as tighten_command
from marginkit_cli.train import train as train_command

from marginkit.measurement.measure import measure, measure_file
from marginkit.measurement.tighten import tighten, tighten_file
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

pytestmark = pytest.mark.quick

# What a command calls otherwise than its function, and what only one of them has.
WORDS = {"arch": "architecture"}
APART = {
    measure: {"out"},  # a command writes a file unless told where; a function returns a table
    measure_file: {"model"},
    train: {"out"},
    tighten_file: {"model", "out"},
}


def of_command(command: click.Command) -> dict[str, object]:
    """What the command's function gets where no option is given."""
    arguments = ["t.h5"] if any(isinstance(p, click.Argument) for p in command.params) else []
    given = command.make_context("command", arguments).params
    return {WORDS.get(name, name): value or None for name, value in given.items()}


def of_function(function) -> dict[str, object]:
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default or None for p in found if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize(
    ("command", "function", "least"),
    [
        (measure_command, measure, 14),
        (measure_command, measure_file, 6),
        (train_command, train, 5),
        (tighten_command, tighten, 1),
        (tighten_command, tighten_file, 1),
    ],
)
def test_a_command_has_the_defaults_of_its_function(command, function, least):
    there, here = of_command(command), of_function(function)
    shared = (there.keys() & here.keys()) - APART.get(function, set())
    same = {name for name in shared if there[name] is not None or here[name] is None}
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert len(same) >= least


def test_training_has_the_recipes_defaults():
    there = of_command(train_command)
    recipe = {field.name: field.default or None for field in fields(Recipe)}
    assert there.keys() >= recipe.keys()
    assert {name: there[name] for name in recipe} == {**recipe, "clip": str(recipe["clip"])}
