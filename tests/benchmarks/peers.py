"""Searches of other libraries, each as (model, x, y) -> adversarial inputs; those that are installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from marginkit.norms import Norm

Search = Callable[[nn.Module, Tensor, Tensor], Tensor]


def peers(norm: Norm, classes: int) -> dict[str, Search]:
    """By name, with the number of steps the issue trackers and papers of each recommend."""
    if norm.name == "l1":
        return {}  # torchattacks' FAB fails in L1, and the others here have no L1
    found = _torchattacks(norm, classes)
    if find_spec("foolbox"):
        found |= _foolbox(norm)
    if find_spec("art"):
        found |= _art(norm, classes)
    return found


def _torchattacks(norm: Norm, classes: int) -> dict[str, Search]:
    import torchattacks

    name, eps = {"l2": ("L2", 30.0), "linf": ("Linf", 1.0)}[norm.name]
    found: dict[str, Search] = {
        "torchattacks FAB(10)": lambda m, x, y: torchattacks.FAB(m, name, eps, 10, n_classes=classes)(x, y)
    }
    if norm.name == "l2":
        found["torchattacks DeepFool"] = lambda m, x, y: torchattacks.DeepFool(m, 50)(x, y)
    return found


def _foolbox(norm: Norm) -> dict[str, Search]:
    from foolbox import PyTorchModel, attacks

    def run(attack: object) -> Search:
        return lambda m, x, y: attack(PyTorchModel(m, (0, 1)), x, y, epsilons=None)[0]  # type: ignore[operator]

    if norm.name == "linf":
        return {
            "foolbox DeepFool": run(attacks.LinfDeepFoolAttack(steps=50)),
            "foolbox FMN(100)": run(attacks.LInfFMNAttack(steps=100)),
        }
    return {
        "foolbox DeepFool": run(attacks.L2DeepFoolAttack(steps=50)),
        "foolbox DDN(100)": run(attacks.DDNAttack(steps=100)),
        "foolbox FMN(100)": run(attacks.L2FMNAttack(steps=100)),
    }


def _art(norm: Norm, classes: int) -> dict[str, Search]:
    from art.attacks.evasion import DeepFool
    from art.estimators.classification import PyTorchClassifier

    def run(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        wrapped = PyTorchClassifier(m, nn.CrossEntropyLoss(), x.shape[1:], classes, clip_values=(0, 1))
        attack = DeepFool(wrapped, max_iter=50, batch_size=len(x), verbose=False)
        return torch.from_numpy(attack.generate(x.cpu().numpy())).to(x)

    return {"ART DeepFool": run} if norm.name == "l2" else {}
