"""Puts what train.py brought among the artifacts: `python artifacts/cifar/place.py trained/models.zip`.

CIFAR-10's networks and tables by name; where there are several, report.md compares them with the first.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import click

ARTIFACTS = Path(__file__).parent.parent
WAYS = ("cross-entropy", "large-margin", "adversarial", "certified")


@click.command()
@click.argument("models", type=click.Path(path_type=Path, exists=True))
def main(models: Path) -> None:
    """Unpacks them."""
    sys.path.insert(0, str(ARTIFACTS))
    from make import HERE, report

    folder = HERE / "cifar10"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(models) as archive:
        for way in WAYS:
            for ending in (".pt", ".h5"):
                if f"cifar-{way}{ending}" in archive.namelist():
                    (folder / f"{way}{ending}").write_bytes(archive.read(f"cifar-{way}{ending}"))
    there = [way for way in WAYS if (folder / f"{way}.h5").exists()]
    if len(there) > 1:
        report(folder, there)
    click.echo(f"{folder}: {', '.join(there)}")


if __name__ == "__main__":
    main()
