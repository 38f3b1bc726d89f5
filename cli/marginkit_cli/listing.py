"""`marginkit methods` and `marginkit datasets`."""

from __future__ import annotations

import click


@click.command()
def methods() -> None:
    """List the ways to measure a distance, with their options."""
    from dataclasses import fields

    from marginkit.methods import METHODS

    for name, method in METHODS.items():
        first = (method.__doc__ or "").split("\n")[0]
        click.echo(f"{name}  [{method.kind}]\n    {first}")
        for field in fields(method):  # type: ignore[arg-type]
            click.echo(f"    --option {name}.{field.name}={field.default}")


@click.command()
def datasets() -> None:
    """List the data sets."""
    from marginkit.data.sources import DATASETS, NEEDS_ARGUMENT

    for name in DATASETS:
        click.echo(NEEDS_ARGUMENT.get(name, name))
