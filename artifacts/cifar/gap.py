"""Do margins in training predict the gap? `python artifacts/cifar/gap.py pool --data-root DIR` (resumable).

Trains 36 small networks on 2,500 images of CIFAR-10 by cross-entropy, of three widths, with three weight
decays, two learning rates, and with moved images or without; measures each on 1,000 of its training images
and of the test images. `marginkit predict pool` then ranks them. Networks that are there already are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
import torch
from images import cifar10

from marginkit.data.dataset import Data
from marginkit.data.regimes import Augmentation, limited
from marginkit.measurement.measure import measure
from marginkit.table.summary import accuracy
from marginkit.table.writing import write
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

TRAINED, EPOCHS, SAMPLES = 2500, 30, 1000


@dataclass(frozen=True)
class Setting:
    """In what the networks differ."""

    width: int
    decay: float
    rate: float
    moved: tuple[Augmentation, ...]


SETTINGS = [
    Setting(*each) for each in product((4, 8, 16), (0.0, 1e-3, 5e-3), (0.02, 0.06), ((), ("shift", "flip")))
]


def fit_and_measure(number: int, pool: Path, own: Data, test: Data, epochs: int = EPOCHS) -> float:
    """Trains one network, writes the tables of both splits, and tells the accuracy on the test images."""
    what = SETTINGS[number]
    at = pool / f"{number:02d}.pt"
    found = train(
        own, at, architecture="cnn", loss="cross-entropy",
        architecture_options={
            "channels": (what.width, 2 * what.width), "kernel": 3, "hidden": 4 * what.width, "halve": "stride"
        },
        recipe=Recipe(
            epochs=epochs, batch_size=100, optimizer="sgd", learning_rate=what.rate, schedule="linear",
            weight_decay=what.decay, augment=what.moved, validation=0.0, seed=number,
        ),
    )  # fmt: skip
    for extra in (".last.pt", ".metrics.jsonl"):
        at.with_name(at.stem + extra).unlink()
    tables = {
        data.split: measure(found.model(), data, ("first_order",), ("l2",), limit=SAMPLES, checks=0)
        for data in (own, test)
    }
    for split, table in tables.items():
        write(table, pool / f"{number:02d}-{split}.h5")
    return accuracy(tables["test"])


@click.command()
@click.argument("pool", type=click.Path(path_type=Path))
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def main(pool: Path, data_root: Path) -> None:
    """Does what is not done yet."""
    torch.set_num_threads(1)
    pool.mkdir(parents=True, exist_ok=True)
    whole = cifar10(data_root, "train")
    own, _ = limited(whole, TRAINED / len(whole), 0.0, seed=0)
    test = cifar10(data_root, "test")
    for number, what in enumerate(SETTINGS):
        if not (pool / f"{number:02d}-test.h5").exists():
            click.echo(f"{number} {what}: {fit_and_measure(number, pool, own, test):.4f}")


if __name__ == "__main__":
    main()
