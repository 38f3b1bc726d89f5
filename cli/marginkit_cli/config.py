"""Options from a TOML file."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

RECIPES = files("marginkit_cli") / "recipes"


def configured(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Takes defaults from a TOML file: keys are options' names, in a table of the command's name or bare.

    A key in the table goes before a bare one; tables of other commands are passed over.
    """
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path} is not readable TOML: {error}", ctx, param) from error
    ctx.default_map = {**(ctx.default_map or {}), **_found(ctx, param, path, values)}


def recipe(ctx: click.Context, param: click.Parameter, name: str | None) -> None:
    """Takes defaults from a recipe that comes with marginkit; a file of options goes before it."""
    if name is None:
        return
    recipes = {Path(entry.name).stem: entry for entry in RECIPES.iterdir() if entry.name.endswith(".toml")}
    if name not in recipes:
        listed = ", ".join(sorted(recipes))
        raise click.BadParameter(f"no recipe is called {name!r}; there are {listed}", ctx, param)
    values = tomllib.loads(recipes[name].read_text("utf-8"))
    ctx.default_map = {**_found(ctx, param, Path(f"recipe {name}"), values), **(ctx.default_map or {})}


def _found(ctx: click.Context, param: click.Parameter, path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The options that these values set, as the command line would have them."""
    group = ctx.parent.command if ctx.parent else None
    others = set(group.commands) if isinstance(group, click.Group) else set()
    own = values.pop(str(ctx.info_name), {})
    bare = {key: value for key, value in values.items() if not (key in others and isinstance(value, dict))}
    known = {
        name.lstrip("-").replace("-", "_"): p for p in ctx.command.params for name in p.opts if p is not param
    }
    found = {}
    for key, value in {**bare, **(own if isinstance(own, dict) else {str(ctx.info_name): own})}.items():
        option = known.get(key.replace("-", "_"))
        if not isinstance(option, click.Option):
            raise click.BadParameter(f"{path} sets {key!r}, which {ctx.info_name} does not have", ctx, param)
        try:
            found[str(option.name)] = as_given(option, value)
        except ValueError as error:
            raise click.BadParameter(f"{path} sets {key!r} to {value!r}; {error}", ctx, param) from error
    return found


def as_given(option: click.Option, value: Any) -> Any:
    """A value of TOML as the command line would have it.

    Raises:
        ValueError: it can't be; says what is expected.
    """
    if option.is_flag:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if option.count and isinstance(value, bool):
        return int(value)
    if option.multiple:
        pairs = _pairs(value) if isinstance(value, dict) else value
        return [_text(part) for part in (pairs if isinstance(pairs, list) else [pairs])]
    return ",".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _pairs(table: dict[str, Any], prefix: str = "") -> list[str]:
    """NAME=VALUE of a table, whose names may be tables themselves: nearest.effort=tight."""
    found = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += _pairs(value, f"{prefix}{name}.")
        else:
            parts = value if isinstance(value, list) else [value]
            found.append(f"{prefix}{name}={','.join(map(_text, parts))}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        raise ValueError("expected a number, text, or a list of those")
    return str(value).lower() if isinstance(value, bool) else str(value)
