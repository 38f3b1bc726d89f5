"""Do margins in training predict the gap? `python artifacts/cifar/gap.py pools --data-root DIR` (resumable).

Trains small networks on 2,500 images of CIFAR-10 by cross-entropy, in two pools of 36: of pools/mixed some
learn all of them and some don't (three widths, weight decays, two learning rates, images moved or not); those
of pools/fitted nearly all do (no moved images, more widths, decays and rates). Measures each on 1,000 of its
training images, and on 5,000 test images for the accuracy. `marginkit predict pools/mixed` ranks them.
Networks that are there already are skipped.
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

TRAINED, EPOCHS = 2500, 30
SPLITS = {"train": (1000, "all"), "test": (5000, "input")}  # samples, and where margins are measured


@dataclass(frozen=True)
class Setting:
    """In what the networks differ."""

    width: int
    decay: float
    rate: float
    moved: tuple[Augmentation, ...] = ()


POOLS = {
    "mixed": [
        Setting(*each)
        for each in product((4, 8, 16), (0.0, 1e-3, 5e-3), (0.02, 0.06), ((), ("shift", "flip")))
    ],
    "fitted": [Setting(*each) for each in product((8, 16, 32), (0.0, 1e-3, 5e-3, 1e-2), (0.04, 0.06, 0.1))],
}


def fit_and_measure(
    what: Setting, name: Path, seed: int, own: Data, test: Data, epochs: int = EPOCHS
) -> list[float]:
    """Trains one network, writes NAME.pt and a table of each split, and tells both accuracies."""
    at = name.with_suffix(".pt")
    found = train(
        own, at, architecture="cnn", loss="cross-entropy",
        architecture_options={
            "channels": (what.width, 2 * what.width), "kernel": 3, "hidden": 4 * what.width, "halve": "stride"
        },
        recipe=Recipe(
            epochs=epochs, batch_size=100, optimizer="sgd", learning_rate=what.rate, schedule="linear",
            weight_decay=what.decay, augment=what.moved, validation=0.0, seed=seed,
        ),
    )  # fmt: skip
    for extra in (".last.pt", ".metrics.jsonl"):
        at.with_name(at.stem + extra).unlink()
    reached = []
    for data in (own, test):
        count, layers = SPLITS[data.split]
        table = measure(
            found.model(), data, ("first_order",), ("l2",), layers=(layers,), limit=count, checks=0
        )
        write(table, name.with_name(f"{name.name}-{data.split}.h5"))
        reached.append(accuracy(table))
    return reached


@click.command()
@click.argument("pools", type=click.Path(path_type=Path))
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def main(pools: Path, data_root: Path) -> None:
    """Does what is not done yet."""
    torch.set_num_threads(1)
    whole = cifar10(data_root, "train")
    own, _ = limited(whole, TRAINED / len(whole), 0.0, seed=0)
    test = cifar10(data_root, "test")
    for pool, settings in POOLS.items():
        (pools / pool).mkdir(parents=True, exist_ok=True)
        for seed, what in enumerate(settings):
            name = pools / pool / f"{seed:02d}"
            if not name.with_name(f"{name.name}-test.h5").exists():
                train_, test_ = fit_and_measure(what, name, seed, own, test)
                click.echo(f"{pool} {seed} {what}: {train_:.4f} in training, {test_:.4f}")


if __name__ == "__main__":
    main()
