"""Random networks of everything that bounds know: no proof may reach beyond an adversarial input.

    python tests/benchmarks/fuzz_proofs.py [--count 2000] [--seed 0] [--start 0]

Each network strings together operations on vectors, signals or images, and mixes in what makes a trace
go wrong: changes in place after a fork, through views and by `out=`, hooks, forward methods of standard
classes, parametrisations, branches that lead nowhere. `crown` and `lipschitz` (and `exact`, where the network
is piecewise linear and small) prove radii; searches of the float64 network by its own forward pass, which
share no code with the bounds, and points on the rim are held against them. A refusal is counted by
its note and is no fault.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from marginkit.kinds import Status
from marginkit.methods.crown import Crown
from marginkit.methods.deepfool import DeepFool
from marginkit.methods.exact import Exact
from marginkit.methods.lipschitz import Lipschitz
from marginkit.methods.nearest import Nearest
from marginkit.methods.verify import Verify
from marginkit.norms import NORMS, Norm
from marginkit.types import Threat

Step = Callable[[Tensor], Tensor]
SHAPES = ((5,), (2, 6), (2, 4, 4))
CLASSES, SAMPLES, POINTS = 3, 2, 300
ROUNDING = 1e-7  # of a distance

PIECEWISE: dict[str, Step] = {
    "relu": torch.relu,
    "relu in place": lambda h: F.relu(h, inplace=True),
    "fork before relu in place": lambda h: F.relu_(h) + h,
    "leaky": lambda h: F.leaky_relu(h, 0.2),
    "steep": lambda h: F.leaky_relu(h, -1.5),
    "abs": torch.abs,
    "clamp": lambda h: h.clamp(-0.4, 0.5),
    "clamp by data": lambda h: (h.data.clamp_(min=-0.3), h)[1],
    "hardtanh": F.hardtanh,
    "relu6": lambda h: F.relu6(3 * h),
    "hardsigmoid": lambda h: F.hardsigmoid(3 * h),
    "maximum": lambda h: torch.maximum(h, h.flip(1)),
    "minimum": lambda h: torch.minimum(h, 0.5 * h.roll(1, 1)),
    "view in place": lambda h: (h.view(len(h), -1).relu_(), h)[1],
    "half in place": lambda h: (h[:, ::2].relu_(), h)[1],
    "alias": lambda h: h + h.add_(0.3).relu_(),
    "detach in place": lambda h: (h.detach().abs_(), h)[1],
    "dead branch": lambda h: (h.softmax(1), torch.relu(h))[1],
    "dead change": lambda h: (h.clone().zero_(), torch.relu(h))[1],
}
SMOOTH: dict[str, Step] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": lambda h: F.softplus(h, 2),
    "elu": F.elu,
    "elu 1.6": lambda h: F.elu(h, 1.6),
    "selu": F.selu,
    "celu": lambda h: F.celu(h, 0.4),
    "logsigmoid": F.logsigmoid,
}


def _zeroed(h: Tensor) -> Tensor:
    h[:, 0] = 0.2
    h[:, 1:2] = h[:, -1:].clone()  # of one channel nothing
    return h


def _out(h: Tensor) -> Tensor:
    other = torch.empty_like(h)
    torch.sub(h.detach(), 0.1, out=other)  # which has no gradient
    return other + h


def _buffer(h: Tensor) -> Tensor:
    found = torch.ones(len(h), h.shape[1] + 1, *h.shape[2:], dtype=h.dtype)
    found[:, 1:] = h
    return found


LINEAR: dict[str, Step] = {
    "rows": _zeroed,
    "out": _out,
    "buffer": _buffer,
    "scale": lambda h: 0.5 - h * 1.3,
    "scale in place": lambda h: h.mul_(-1.2).add_(0.1),
    "iadd": lambda h: h.__iadd__(0.5 * h.flip(1)),
    "centre": lambda h: h - h.mean(1, keepdim=True),
    "cat": lambda h: torch.cat([h, -h], 1),
    "stack": lambda h: torch.stack([h, h.flip(1)], 1).flatten(1, 2),
    "stride": lambda h: h[..., ::2],
    "pad channels": lambda h: F.pad(h, (0, 0) * (h.ndim - 2) + (1, 1)),
    "chunk": lambda h: torch.add(*h[:, : h.shape[1] // 2 * 2].chunk(2, 1)) if h.shape[1] > 1 else h,
    "transpose": lambda h: h.transpose(1, -1).contiguous() if h.ndim > 2 else h,
    "view of a view": lambda h: (h.flatten(1).view(h.shape).add_(0.2), h)[1],
}


class Steps(nn.Module):
    """Modules and functions one after the other."""

    def __init__(self, steps: list[Step | nn.Module]) -> None:
        super().__init__()
        self.modules_ = nn.ModuleList(step for step in steps if isinstance(step, nn.Module))
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        h, modules = x * 1, iter(self.modules_)  # its input stays what it was
        for step in self.steps:
            h = next(modules)(h) if isinstance(step, nn.Module) else step(h)
        return h


class Own(nn.Linear):
    """A standard class whose forward pass is another."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sub_(0.1) * 1.5


class Branches(nn.Module):
    """A residual of any step that keeps the shape."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return x + self.step(x)


def network(generator: np.random.Generator) -> tuple[nn.Module, tuple[int, ...], bool]:
    """A network, the shape of its inputs, and whether it is piecewise linear."""
    torch.manual_seed(int(generator.integers(2**31)))
    shape = SHAPES[int(generator.integers(len(SHAPES)))]
    piecewise = bool(generator.random() < 0.5)
    bends = PIECEWISE if piecewise else PIECEWISE | SMOOTH
    model = Steps([])
    h = torch.rand(2, *shape)
    for _ in range(int(generator.integers(2, 5))):
        steps = [_layer(h, generator)]
        if generator.random() < 0.5:
            steps.append(_any(LINEAR, generator))
        steps.append(_any(bends, generator))
        for step in steps:
            before = h
            with torch.no_grad():
                h = step(h.clone())
            if isinstance(step, nn.Module):
                if h.shape == before.shape and generator.random() < 0.3:
                    step = Branches(step)
                _tampered(step, generator)
                with torch.no_grad():
                    h = step(before.clone())
                model.modules_.append(step)
            model.steps.append(step)
    for step in (nn.Flatten(), nn.Linear(h[0].numel(), CLASSES)):
        model.steps.append(step)
        model.modules_.append(step)
    _tampered(model, generator)
    return model.double().eval(), shape, piecewise


def _any(steps: dict[str, Step], generator: np.random.Generator) -> Step:
    return steps[str(generator.choice(list(steps)))]


def _layer(h: Tensor, generator: np.random.Generator) -> nn.Module:
    channels, kind, groups = h.shape[1], int(generator.integers(4)), 1 + int(h.shape[1] % 2 == 0)
    if h.ndim == 2 or min(h.shape[2:]) < 3:
        found: nn.Module = (Own if kind == 0 else nn.Linear)(h.shape[-1], 5)
        return parametrizations.spectral_norm(found) if kind == 1 else found
    if kind == 0:
        norm = (nn.BatchNorm1d if h.ndim == 3 else nn.BatchNorm2d)(channels)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        return norm
    if kind == 1:
        return (nn.ConvTranspose1d if h.ndim == 3 else nn.ConvTranspose2d)(channels, 2, 2, 1, 1)
    if kind == 2:
        return (nn.MaxPool1d if h.ndim == 3 else nn.MaxPool2d)(2, 1, int(generator.integers(2)))
    conv = nn.Conv1d if h.ndim == 3 else nn.Conv2d
    mode = str(generator.choice(["zeros", "reflect", "circular"]))
    return conv(channels, 2 * groups, 2, 1, 1, int(generator.integers(1, 3)), groups, padding_mode=mode)


def _tampered(module: nn.Module, generator: np.random.Generator) -> None:
    """Now and then a hook, or another forward method, that keeps the shape."""
    chance = generator.random()
    if chance < 0.06:
        module.register_forward_hook(lambda _, inputs, found: 0.8 * found + 0.1)
    elif chance < 0.12:
        module.register_forward_hook(lambda _, inputs, found: (found.clamp_(-1, 1), None)[1])
    elif chance < 0.18:
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1.1 - 0.05,))
    elif chance < 0.24:
        usual = module.forward
        module.forward = lambda x: usual(x.clone()) * 0.9  # type: ignore[method-assign]


def tried(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, radius: Tensor, seed: int) -> Tensor:
    """The least distance of a misclassified point within each proved radius, inf for none."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.full_like(radius, torch.inf)
    for i, reach in enumerate(radius.clamp(max=10).tolist()):
        step = torch.randn(POINTS, *x.shape[1:], generator=generator, dtype=torch.float64)
        step[::3] = threat.norm.steepest(step[::3])
        step *= (reach / threat.norm.length(step)).view(-1, *[1] * (x.ndim - 1))
        points = threat.clip(x[i].expand_as(step), x[i] + step)
        with torch.no_grad():
            scores = model(points)
        others = scores.clone()
        others[:, y[i]] = -torch.inf
        wrong = others.amax(1) - scores[:, y[i]] > 1e-9 * scores.abs().amax(1)
        if wrong.any():
            found[i] = threat.norm.length(points[wrong] - x[i : i + 1]).amin()
    return found


def one(number: int, seed: int, counts: Counter[str]) -> list[str]:
    """What went wrong with one network; what became of it is counted."""
    generator = np.random.default_rng([seed, number])
    model, shape, piecewise = network(generator)
    norms: list[Norm] = list(NORMS.values())
    norm = norms[int(generator.integers(len(norms)))]
    threat = Threat(norm) if generator.random() < 0.5 else Threat(norm, None, None)
    x = torch.rand(SAMPLES, *shape, dtype=torch.float64)
    try:
        with torch.no_grad():
            y = model(x.clone()).argmax(1)
    except RuntimeError:  # such as a view of what is not contiguous
        counts["no network: PyTorch itself refuses it"] += 1
        return []
    try:
        known = (DeepFool() if number % 5 else Nearest("fast"))(model, x, y, threat)
    except RuntimeError:  # some changes in place forbid gradients, and with them the search
        known = None
        counts["no gradients: points only"] += 1
    methods = {"crown": Crown(ascents=1), "lipschitz": Lipschitz()}
    answers = {name: method(model, x, y, threat) for name, method in methods.items()}
    if piecewise and known is not None and number % 10 == 0:
        answers["exact"] = Exact(time_limit=0.1).close(model, x, y, threat, known)
    if known is not None and number % 8 == 1:
        near = known.upper[known.upper.isfinite() & (known.upper > 0)][:2]
        radii = tuple((0.9 * near).tolist()) or (0.1,)
        answers["verify"] = Verify(radii, time_limit=0.1).close(model, x, y, threat, known)
    wrong = []
    for name, found in answers.items():
        if found.note:
            counts[f"{name}: {found.note[:60]}"] += 1
            continue
        counts[f"{name} proved"] += int((found.lower > 0).sum())
        nearest = tried(model, x, y, threat, found.lower, number)
        if known is not None:
            nearest = nearest.minimum(known.upper)
        above = found.lower > nearest * (1 + ROUNDING)
        counts[f"{name} held against an adversarial input"] += int(nearest.isfinite().sum())
        if bool((above & (found.status != Status.MISCLASSIFIED)).any()):
            wrong.append(f"network {number}: {name} {norm} proves {found.lower} above {nearest}")
    return wrong


def run(count: int, seed: int, start: int = 0) -> tuple[list[str], Counter[str]]:
    """What went wrong, and what became of all."""
    counts: Counter[str] = Counter()
    return [text for number in range(start, start + count) for text in one(number, seed, counts)], counts


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--count", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--start", type=int, default=0, help="the first network's number")
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    wrong, counts = list[str](), Counter[str]()
    for start in range(asked.start, asked.start + asked.count, 50):
        more, found = run(min(50, asked.start + asked.count - start), asked.seed, start)
        wrong, counts = wrong + more, counts + found
        print(f"{start + 50 - asked.start} networks, {len(wrong)} wrong", file=sys.stderr, flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:7}  {name}")
    print(*wrong, sep="\n")
    seconds = time.process_time() - began
    print(f"{asked.count} networks, {len(wrong)} proofs above an adversarial input, {seconds:.0f} s of CPU")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
