"""Searches of other libraries, each as (model, x, y) -> adversarial inputs; those that are installed."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginkit.norms import Norm

Search = Callable[[nn.Module, Tensor, Tensor], Tensor]
BUDGET = 2000  # forward and backward passes a sample of `within_budget`


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


def within_budget(norm: str, adv_lib: Path | None) -> dict[str, Search]:
    """By name, with about as many steps as the budget allows; adv-lib from a checkout."""
    found: dict[str, Search] = {}
    if find_spec("foolbox"):
        found |= _foolbox_long(norm)
    if find_spec("torchattacks") and norm != "l1":
        found |= _fab(norm)
    return found | _adv_lib(norm, adv_lib) if adv_lib else found


def _foolbox_long(norm: str) -> dict[str, Search]:
    from foolbox import PyTorchModel, attacks

    def run(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = attack(PyTorchModel(model, (0, 1)), x, y, epsilons=None)[0]
        return found

    fmn = {"l1": attacks.L1FMNAttack, "l2": attacks.L2FMNAttack, "linf": attacks.LInfFMNAttack}[norm]
    found: dict[str, Any] = {"foolbox FMN(1000)": fmn(steps=1000)}
    if norm == "l1":
        found["foolbox EAD(9 x 100)"] = attacks.EADAttack(9, steps=100, decision_rule="L1")
    if norm == "l2":
        found["foolbox DDN(1000)"] = attacks.DDNAttack(steps=1000)
    return {name: partial(run, attack) for name, attack in found.items()}


def _fab(norm: str) -> dict[str, Search]:
    import torchattacks

    name, eps = {"l2": ("L2", 30.0), "linf": ("Linf", 1.0)}[norm]

    def fab(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        classes = model(x[:1]).shape[1]
        found: Tensor = torchattacks.FAB(model, name, eps, BUDGET // (classes + 1), n_classes=classes)(x, y)
        return found

    return {"torchattacks FAB": fab}


def _adv_lib(norm: str, path: Path) -> dict[str, Search]:
    sys.path.insert(0, str(path))
    if "visdom" not in sys.modules and not find_spec("visdom"):  # it plots with it, and imports it always
        sys.modules["visdom"] = types.ModuleType("visdom")
    from adv_lib import attacks
    from adv_lib.attacks.auto_pgd import minimal_apgd

    p = {"l1": 1, "l2": 2, "linf": float("inf")}[norm]
    found: dict[str, Search] = {
        "adv-lib FMN(1000)": partial(attacks.fmn, norm=p, steps=1000),
        "adv-lib PDPGD(1000)": partial(attacks.pdpgd, norm=p, num_steps=1000),
    }
    if norm != "linf":
        first = {"l1": 0.5, "l2": 0.1}[norm]
        found["adv-lib ALMA(1000)"] = partial(
            attacks.alma, num_steps=1000, distance=norm, init_lr_distance=first
        )
    if norm == "l2":
        found["adv-lib DDN(1000)"] = partial(attacks.ddn, steps=1000, init_norm=0.3)
        found["adv-lib PDGD(1000)"] = partial(attacks.pdgd, num_steps=1000)
        found["adv-lib SDF"] = attacks.sdf
    if norm != "l1":
        most = {"l2": 5.0, "linf": 0.5}[norm]
        apgd = partial(minimal_apgd, norm=p, max_eps=most, targeted_version=False)
        found["adv-lib APGD(10 x 95)"] = partial(apgd, binary_search_steps=10, n_iter=95)
    return found
