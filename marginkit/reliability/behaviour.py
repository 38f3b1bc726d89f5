"""Checks of what a model is, before any search: whether the same question has one answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marginkit.guard.answer import answer
from marginkit.guard.precision import in_float64, precise
from marginkit.logits import Scores, gap, logit_margin, too_coarse
from marginkit.reliability.probe import Probe, share

REPEATS = 4
LEAST = 2  # samples that teach a layer something
ALONE = 8  # samples that are also asked for one by one


def randomised(p: Probe) -> float:
    """Asks again."""
    return max(_change(p.scores, _scores(p, p.x)) for _ in range(REPEATS))


def batch_dependent(p: Probe) -> float:
    """Asks one by one."""
    alone = torch.cat([_scores(p, p.x[i : i + 1]) for i in range(min(ALONE, len(p.x)))])
    return _change(p.scores[: len(alone)], alone)


def missing_classes(p: Probe) -> float:
    """Looks at the labels of all that was measured."""
    return p.absent


def batch_statistics(p: Probe) -> float:
    """Looks at the layers, and at their buffers before and after a forward pass."""
    before = {name: buffer.clone() for name, buffer in p.model.named_buffers()}
    _scores(p, p.x[:LEAST])
    changed = [
        n for n, b in p.model.named_buffers() if not torch.equal(before[n].nan_to_num(), b.nan_to_num())
    ]
    return len(changed) + sum(_learns(module) for module in p.model.modules())


def probabilities(p: Probe) -> float:
    """Looks at the scores' range."""
    return share(((p.scores >= 0) & (p.scores <= 1)).all(1))


def imprecise(p: Probe) -> float:
    """Looks at the clean scores, in the precision that searches have."""
    given = precise(p.model, p.x)
    scores = p.scores if given.model is p.model else _scores(p, given.x)
    margin, rival = logit_margin(scores, p.y)
    coarse = too_coarse(scores, p.y)
    finer = given.rough is None and bool(in_float64(given.model, given.x, coarse).rows.equal(coarse))
    digits = torch.finfo(given.rough or scores.dtype).eps / torch.finfo(scores.dtype).eps
    rounding = digits * gap(scores, p.y, rival.unsqueeze(1)).squeeze(1) / margin.abs()
    return float(torch.where(coarse & finer, 0, rounding).double().quantile(0.5))


def _learns(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout):
        return False
    return module.training or getattr(module, "track_running_stats", None) is False


def _scores(p: Probe, x: Tensor) -> Scores:
    with torch.no_grad():
        return answer(p.model, x)


def _change(a: Scores, b: Scores) -> float:
    width = (a.amax(1) - a.amin(1)).clamp(min=torch.finfo(a.dtype).tiny)
    return float(((a - b).abs().amax(1) / width).nan_to_num(nan=0.0).max())
