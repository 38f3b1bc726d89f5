"""What is trained: each job's data, network, loss and recipe. Those of one `stage` have the same epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SMALL = {"width": 16, "blocks": (2, 2, 2)}  # 14 layers, 175,000 weights
LESS = {"width": 16, "blocks": (1, 1, 1)}
WRONG = {"steps": 0, "alpha": 1, "cross_entropy": 0, "warm_up": 0.2}  # for wrong labels
MOVED = ("shift", "flip")
SIGMAS = (0.0, 0.05, 0.1, 0.15, 0.2)


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: of the files.
        stage: jobs that share epochs and a time; an earlier one goes first.
        dataset: `cifar` or `mnist`.
        architecture, options: of the network.
        loss, loss_options: what is lowered.
        recipe: but for its epochs.
        most: epochs, however fast they are.
    """

    name: str
    stage: str
    dataset: str
    architecture: str
    options: dict[str, Any]
    loss: str
    loss_options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    most: int = 30


# Seconds for all jobs of a stage together, one after the other, on the machine it was written for.
STAGES = {"plain": 100.0, "certified": 60.0, "mnist": 50.0, "few": 40.0, "wrong": 40.0}


def jobs() -> list[Job]:
    """In the order of their importance."""
    plain = {"batch_size": 256, "learning_rate": 3e-3, "augment": MOVED}
    kept = {"batch_size": 256, "learning_rate": 1e-2, "ema": 0.99}
    found = [
        Job("cross-entropy", "plain", "cifar", "resnet", SMALL, "cross-entropy", {}, plain),
        Job("large-margin", "plain", "cifar", "resnet", SMALL, "large-margin", {}, plain),
        Job("adversarial", "plain", "cifar", "resnet", SMALL, "adversarial", {"radius": 8 / 255}, plain),
        Job("certified", "certified", "cifar", "lipschitz-cnn",
            {"channels": (24, 48, 64), "depth": 1, "hidden": (88,)}, "certified-margin",
            {"radius": 0.5, "temperature": 0.2}, {**kept, "augment": MOVED}, 60),
        *(Job(f"certified-{radius:g}", "mnist", "mnist", "lipschitz-mlp", {"hidden": (256, 176)},
              "certified-margin", {"radius": radius, "temperature": temperature}, kept, 80)
          for radius, temperature in ((1.8, 0.35), (1.5, 0.3))),
    ]  # fmt: skip
    ways = {"cross-entropy": ("cross-entropy", {}), "large-margin": ("large-margin", {})}
    few = {"batch_size": 128, "learning_rate": 2e-3, "fraction": 0.05}
    wrong = {"batch_size": 256, "learning_rate": 2e-3, "fraction": 0.2, "label_noise": 0.4}
    for seed in range(3):
        for way, (loss, options) in ways.items():
            found.append(Job(f"few-{way}-{seed}", "few", "cifar", "resnet", LESS, loss, options,
                             {**few, "seed": seed}))  # fmt: skip
        for way, (loss, options) in {**ways, "large-margin-wrong": ("large-margin", WRONG)}.items():
            found.append(Job(f"wrong-{way}-{seed}", "wrong", "cifar", "resnet", LESS, loss, options,
                             {**wrong, "seed": seed}))  # fmt: skip
    return found
