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


def within_budget(norm: str, adv_lib: Path | None, budget: int = BUDGET) -> dict[str, Search]:
    """By name, with about as many steps as the budget allows; adv-lib from a checkout."""
    found: dict[str, Search] = {}
    if find_spec("foolbox"):
        found |= _foolbox_long(norm, budget // 2)
    if find_spec("torchattacks") and norm != "l1":
        found |= _fab(norm, budget)
    return found | _adv_lib(norm, adv_lib, budget // 2) if adv_lib else found


def _foolbox_long(norm: str, steps: int) -> dict[str, Search]:
    from foolbox import PyTorchModel, attacks

    def run(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = attack(PyTorchModel(model, (0, 1)), x, y, epsilons=None)[0]
        return found

    fmn = {"l1": attacks.L1FMNAttack, "l2": attacks.L2FMNAttack, "linf": attacks.LInfFMNAttack}[norm]
    found: dict[str, Any] = {f"foolbox FMN({steps})": fmn(steps=steps)}
    if norm == "l1":
        searches, each = (9, 100) if steps >= 900 else (1, steps)
        found[f"foolbox EAD({searches} x {each})"] = attacks.EADAttack(
            searches, steps=each, decision_rule="L1"
        )
    if norm == "l2":
        found[f"foolbox DDN({steps})"] = attacks.DDNAttack(steps=steps)
    return {name: partial(run, attack) for name, attack in found.items()}


def _fab(norm: str, budget: int) -> dict[str, Search]:
    import torchattacks

    name, eps = {"l2": ("L2", 30.0), "linf": ("Linf", 1.0)}[norm]

    def fab(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        classes = model(x[:1]).shape[1]
        steps = max(1, budget // (classes + 1))
        found: Tensor = torchattacks.FAB(model, name, eps, steps, n_classes=classes)(x, y)
        return found

    return {"torchattacks FAB": fab}


def _adv_lib(norm: str, path: Path, steps: int) -> dict[str, Search]:
    sys.path.insert(0, str(path))
    if "visdom" not in sys.modules and not find_spec("visdom"):  # it plots with it, and imports it always
        sys.modules["visdom"] = types.ModuleType("visdom")
    from adv_lib import attacks
    from adv_lib.attacks.auto_pgd import minimal_apgd

    p = {"l1": 1, "l2": 2, "linf": float("inf")}[norm]
    found: dict[str, Search] = {
        f"adv-lib FMN({steps})": partial(attacks.fmn, norm=p, steps=steps),
        f"adv-lib PDPGD({steps})": partial(attacks.pdpgd, norm=p, num_steps=steps),
    }
    if norm != "linf":
        first = {"l1": 0.5, "l2": 0.1}[norm]
        found[f"adv-lib ALMA({steps})"] = partial(
            attacks.alma, num_steps=steps, distance=norm, init_lr_distance=first
        )
    if norm == "l2":
        found[f"adv-lib DDN({steps})"] = partial(attacks.ddn, steps=steps, init_norm=0.3)
        found[f"adv-lib PDGD({steps})"] = partial(attacks.pdgd, num_steps=steps)
        found["adv-lib SDF"] = attacks.sdf
    if norm != "l1":
        most = {"l2": 5.0, "linf": 0.5}[norm]
        radii, each = (10, 95) if steps >= 950 else (5, max(1, steps // 5))
        apgd = partial(minimal_apgd, norm=p, max_eps=most, targeted_version=False)
        found[f"adv-lib APGD({radii} x {each})"] = partial(apgd, binary_search_steps=radii, n_iter=each)
    return found
