"""What the artifacts are: each data set's networks, how they are trained, and what is measured of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Network:
    """How one is trained.

    Attributes:
        architecture, options: of it.
        loss, loss_options: what is lowered.
        recipe: fields of `Recipe`.
        methods: that measure it; None for those of its set.
    """

    architecture: str
    options: dict[str, Any]
    loss: str
    loss_options: dict[str, Any]
    recipe: dict[str, Any]
    methods: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Set:
    """Networks of one data set.

    Attributes:
        networks: by name; the first is the baseline.
        samples: of the test split.
        methods: that measure them.
    """

    networks: dict[str, Network]
    samples: int
    methods: tuple[str, ...]


def _ways(radius: float) -> dict[str, tuple[str, dict[str, Any]]]:
    """Loss and options by the network's name."""
    return {
        "cross-entropy": ("cross-entropy", {}),
        "hinge": ("hinge", {}),
        "large-margin": ("large-margin", {}),
        "large-margin-input": ("large-margin", {"layers": ("input",)}),
        "large-margin-linf": ("large-margin", {"norm": "linf"}),
        "adversarial": ("adversarial", {"radius": radius}),
    }


def _plain(architecture: str, options: dict[str, Any], epochs: int, radius: float) -> dict[str, Network]:
    recipe = {"epochs": epochs, "learning_rate": 2e-3, "validation": 0.0}
    return {
        name: Network(architecture, options, loss, chosen, recipe)
        for name, (loss, chosen) in _ways(radius).items()
    }


KEPT = {"batch_size": 256, "learning_rate": 1e-2, "ema": 0.99, "validation": 0.0}
MOVED = {"augment": ("shift", "flip")}


def _certified(radius: float, temperature: float, epochs: int) -> Network:
    """A network whose margins are proved distances."""
    return Network(
        "lipschitz-mlp", {"hidden": (256, 176)},
        "certified-margin", {"radius": radius, "temperature": temperature},
        {"epochs": epochs, **KEPT}, ("lipschitz", "first_order", "nearest"),
    )  # fmt: skip


def _residual(loss: str, **options: Any) -> Network:
    """CIFAR-10's: 8 layers, 78,000 weights."""
    recipe = {"epochs": 12, "learning_rate": 2e-3, "validation": 0.0, **MOVED}
    return Network("resnet", {"width": 16, "blocks": (1, 1, 1), "stride": 2}, loss, options, recipe)


SMALL = {"channels": (8, 16), "kernel": 3, "hidden": 64, "halve": "stride"}
METHODS = ("first_order", "nearest", "crown")
SETS = {
    "digits": Set(_plain("mlp", {"hidden": (16, 16)}, 40, 0.05), 355, (*METHODS, "exact")),
    "mnist": Set(_plain("cnn", SMALL, 5, 0.1) | {"certified": _certified(1.35, 0.3, 32)}, 1000, METHODS),
    "fashion-mnist": Set(
        _plain("cnn", SMALL, 5, 0.05) | {"certified": _certified(0.7, 0.2, 16)}, 1000, METHODS
    ),
    "cifar10": Set(
        {
            "cross-entropy": _residual("cross-entropy"),
            "large-margin": _residual("large-margin"),
            "adversarial": _residual("adversarial", radius=8 / 255, steps=3, step_size=0.5),
            "certified": Network(
                "lipschitz-cnn", {"channels": (24, 48, 64), "depth": 1, "hidden": (88,)},
                "certified-margin", {"radius": 0.5, "temperature": 0.2},
                {"epochs": 8, **KEPT, **MOVED}, ("lipschitz", "nearest"),
            ),
        },
        1000,
        ("first_order", "nearest", "lipschitz"),
    ),
}  # fmt: skip
