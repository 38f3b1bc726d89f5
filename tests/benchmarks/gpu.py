"""marginkit on an accelerator: `python tests/benchmarks/gpu.py [--minutes 4] [--out FILE.json]`.

Random weights settled on random pictures, each labelled as its model sees it. Says how far answers agree with
the processor's, how many passes a second searches make, their memory, what bfloat16 gains, and what proofs
and training steps take. Without a GPU all of it runs small, so that it is known to work. A part that lacks a
library, or comes when the time is up, is left out with a sentence; one that fails says so and the next goes
on.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import click
import torch
from peers import peers
from rich.console import Console
from rich.table import Table
from search import Counting, distances
from torch import Tensor, nn
from zoo import settled

from marginkit.kinds import INPUT, Status
from marginkit.losses.cross_entropy import CrossEntropy
from marginkit.losses.large_margin import LargeMargin
from marginkit.measurement.precision import in_precision
from marginkit.methods.crown import Crown
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.nearest import Nearest
from marginkit.methods.verify import Verify
from marginkit.models.architectures import ARCHITECTURES
from marginkit.norms import L2, LINF, NORMS, Norm
from marginkit.types import Bracket, Estimate, Threat

AGREED = 1e-4  # relative
REPEATS = 3


@dataclass(frozen=True)
class Row:
    """One figure, or the sentence that says why there is none."""

    part: str
    what: str
    value: float | None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Machine:
    """Where to compute, and how much of it: `large` is for accelerators."""

    device: torch.device
    large: bool

    def seconds(self, task: Callable[[], object], repeats: int = REPEATS) -> float:
        """The median of some runs after one that does not count; of one run, where there are no repeats."""
        spent = []
        for _ in range(repeats + 1):
            self.wait()
            began = time.perf_counter()
            task()
            self.wait()
            spent.append(time.perf_counter() - began)
        return median(spent[1:] or spent)

    def wait(self) -> None:
        """Until everything asked for is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, task: Callable[[], object]) -> float | None:
        """The most memory that PyTorch held meanwhile, in GiB; None where that is not counted."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        task()
        return torch.cuda.max_memory_allocated(self.device) / 2**30


def scattered(model: nn.Module, size: int) -> nn.Module:
    """In eval mode with random weights that tell inputs apart; BatchNorm has seen some pictures."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5, generator=generator)
    return settled(model.eval(), size).requires_grad_(False)


def networks(machine: Machine) -> dict[str, tuple[nn.Module, int, int]]:
    """By name: the model, its pictures' size, and how many of them to search."""
    from torchvision import models

    if machine.large:
        made = {
            "resnet18, 32": (models.resnet18(num_classes=10), 32, 256),
            "resnet50, 224": (models.resnet50(), 224, 64),
            "vit_b_16, 224": (models.vit_b_16(), 224, 32),
        }
    else:
        small = models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)
        made = {
            "resnet18, 32": (models.resnet18(num_classes=10), 32, 4),
            "resnet50, 32": (models.resnet50(num_classes=10), 32, 2),
            "vit of 2 blocks, 32": (small, 32, 4),
        }
    return {name: (scattered(model, size), size, count) for name, (model, size, count) in made.items()}


def pictures(model: nn.Module, size: int, count: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """The same everywhere, labelled as the model sees them on the processor."""
    x = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, torch.cat([model(part).argmax(1) for part in x.split(8)])


def small(kind: str, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that proofs can say something of, with pictures and labels for it."""
    torch.manual_seed(0)
    model = ARCHITECTURES[kind]()((1, 28, 28), 10).eval().requires_grad_(False)
    return (model, *pictures(model, 28, count, channels=1))


def agreement(machine: Machine) -> Iterator[Row]:
    """The same question here and on the processor."""
    questions = {
        "first_order l2": ("cnn", 32, lambda m, x, y: FirstOrder(layers=(INPUT,))(m, x, y, Threat(L2))),
        "crown l2": ("mlp", 4, lambda m, x, y: Crown()(m, x, y, Threat(L2))),
        "crown linf": ("mlp", 8, lambda m, x, y: Crown()(m, x, y, Threat(LINF))),
        "verify linf .01": ("mlp", 4, lambda m, x, y: Verify((0.01,), 1.0)(m, x, y, Threat(LINF))),
        **{
            f"nearest {norm.name}": ("cnn", 16, lambda m, x, y, norm=norm: Nearest()(m, x, y, Threat(norm)))
            for norm in (L2, LINF)
        },
    }
    for name, (kind, count, ask) in questions.items():
        model, x, y = small(kind, count)
        here = copy.deepcopy(model).to(machine.device)
        for double in (False, True) if name.startswith("nearest") else (False,):
            given = x.double() if double else x
            one = ask(copy.deepcopy(model).to(given.dtype), given, y)
            other = ask(here.to(given.dtype), given.to(machine.device), y.to(machine.device))
            yield _alike(name + ", float64" * double, one, other)
            if isinstance(other, Bracket) and name.startswith("nearest") and not double:
                yield held(model, x, y, NORMS[name.split()[1]], other)


def _alike(name: str, one: Bracket | Estimate, other: Bracket | Estimate) -> Row:
    """How far two answers to one question are apart."""
    (status, ends), (status_here, ends_here) = _ends(one), _ends(other)
    apart = torch.where(ends == ends_here, 0, (ends - ends_here).abs() / ends.abs().clamp(min=1e-12))
    differ, far = int((status != status_here).sum()), int((apart > AGREED).any(1).sum())
    note = f"{differ} of {len(status)} statuses differ, {far} farther than {AGREED:g}"
    return Row("agreement", f"{name}: largest relative difference", float(apart.max()), "", note)


def _ends(answer: Bracket | Estimate) -> tuple[Tensor, Tensor]:
    if isinstance(answer, Estimate):
        return answer.status.cpu(), answer.distance.cpu()
    return answer.status.cpu(), torch.stack([answer.lower, answer.upper], 1).cpu()


def held(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, answer: Bracket) -> Row:
    """How many witnesses found here hold on the processor, at the distance that was said."""
    assert answer.witness is not None
    there = distances(model, x, y, answer.witness.cpu().nan_to_num(nan=-1.0), norm)
    told = answer.upper.cpu().numpy()
    lost = int((abs(there - told) > AGREED * told).sum())
    what = f"nearest {norm.name}: witnesses that the processor refuses"
    return Row("agreement", what, lost, f"of {len(x)}")


def searching(machine: Machine) -> Iterator[Row]:
    """Passes against time, memory and bfloat16, on models of usual size."""
    for name, (model, size, count) in networks(machine).items():
        x, y = (part.to(machine.device) for part in pictures(model, size, count))
        model = model.to(machine.device)

        def one_pass(model: nn.Module = model, x: Tensor = x) -> None:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(model(leaf).amax(1).sum(), leaf)

        single = machine.seconds(one_pass) / count
        yield Row("searches", f"{name}: forward and backward", 1 / single, "passes/s", f"batch {count}")
        for effort in ("fast", "balanced"):
            yield from _searched(machine, f"{name}: nearest {effort}", model, x, y, effort, single)
        yield from _searched(machine, f"{name}: nearest fast, bfloat16", model, x, y, "fast", single)


def _searched(
    machine: Machine, name: str, model: nn.Module, x: Tensor, y: Tensor, effort: str, single: float
) -> Iterator[Row]:
    """One search: its time a sample, its time over that of its passes, and its memory."""
    counting = Counting(model)
    if name.endswith("bfloat16"):  # not judged in float64 here
        rough = in_precision(counting, "bfloat16").search
        assert isinstance(rough, Counting)
        counting = rough
    answers: list[Bracket] = []
    search = Nearest(effort)  # type: ignore[arg-type]
    spent = machine.seconds(lambda: answers.append(search(counting, x, y, Threat(L2))), repeats=1) / len(x)
    passes = counting.passes(len(answers) * len(x))
    missed = int((answers[-1].status != Status.OK).sum())
    note = f"{passes:.0f} passes a sample, {spent / passes / single:.2f} of their time"
    note += f", {missed} of {len(x)} not found" if missed else ""
    yield Row("searches", name, 1000 * spent, "ms a sample", note)
    memory = machine.peak(lambda: search(counting, x, y, Threat(L2)))
    if memory is not None:
        yield Row("memory", f"{name}, batch {len(x)}", memory, "GiB at most")


def proofs(machine: Machine) -> Iterator[Row]:
    """Proofs here and on the processor; `verify` works there anyway."""
    tasks: dict[str, Callable[[nn.Module, Tensor, Tensor], object]] = {
        "crown linf": lambda m, x, y: Crown()(m, x, y, Threat(LINF)),
        "crown l2": lambda m, x, y: Crown()(m, x, y, Threat(L2)),
        "verify linf .01": lambda m, x, y: Verify((0.01,), 1.0)(m, x, y, Threat(LINF)),
    }
    for kind, count in (("mlp", 32), ("cnn", 8)) if machine.large else (("mlp", 2),):
        model, x, y = small(kind, count)
        here, one = copy.deepcopy(model).to(machine.device), max(1, count // 16)
        for name, task in tasks.items():
            spent = machine.seconds(lambda: task(here, x.to(machine.device), y.to(machine.device)), 0)  # noqa: B023
            plain = machine.seconds(lambda: task(model, x[:one], y[:one]), 0)  # noqa: B023
            note = f"batch {count}; processor {1000 * plain / one:.0f} at batch {one}"
            yield Row("proofs", f"{kind}, {name}", 1000 * spent / count, "ms a sample", note)


def training(machine: Machine) -> Iterator[Row]:
    """Steps of the large-margin loss beside cross-entropy's, in float32 and under autocast."""
    from torchvision import models

    count = 128 if machine.large else 4
    model = scattered(models.resnet18(num_classes=10), 32)
    x, y = (part.to(machine.device) for part in pictures(model, 32, count))
    model = model.to(machine.device).train().requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = {"cross-entropy": CrossEntropy(), "large-margin": LargeMargin(low=0.0, high=1.0)}
    for half in (False, True):
        base = 0.0
        for name, loss in losses.items():

            def step(loss: Callable[..., Tensor] = loss, half: bool = half) -> None:
                optimizer.zero_grad()
                with torch.autocast(machine.device.type, torch.bfloat16, enabled=half):
                    value = loss(model, x, y)
                value.backward()
                optimizer.step()

            spent = machine.seconds(step)
            base = base or spent
            label = f"resnet18, 32, batch {count}, {'bfloat16' if half else 'float32'}: {name}"
            yield Row("training", label, 1000 * spent, "ms a step", f"{spent / base:.2f} of cross-entropy's")


def beside(machine: Machine) -> Iterator[Row]:
    """Peers that are installed, on the same model and pictures, every answer judged alike."""
    if not (find_spec("foolbox") or find_spec("torchattacks")):
        yield Row("peers", "neither foolbox nor torchattacks is installed here: left out", None)
        return
    from torchvision import models

    model = scattered(models.resnet18(num_classes=10), 32)
    x, y = (part.to(machine.device) for part in pictures(model, 32, 64 if machine.large else 2))
    model = model.to(machine.device)
    for norm in (NORMS["l2"], NORMS["linf"]):

        def ours(m: nn.Module, x: Tensor, y: Tensor, norm: Norm = norm) -> Tensor:
            found = Nearest("fast")(m, x, y, Threat(norm)).witness
            assert found is not None
            return found

        own = 0.0
        for name, peer in {"nearest fast": ours, **peers(norm, 10)}.items():
            if name.startswith("ART"):
                continue  # computes with numpy
            answers: list[Tensor] = []
            spent = machine.seconds(lambda peer=peer, answers=answers: answers.append(peer(model, x, y)), 1)  # type: ignore[misc]
            own = own or spent
            witness = answers[-1].detach().nan_to_num(nan=-1.0)
            found = distances(model.cpu(), x.cpu(), y.cpu(), witness.cpu(), norm)
            model.to(machine.device)
            note = f"median {float(torch.from_numpy(found).median()):.4g}, {spent / own:.1f} times our time"
            yield Row("peers", f"{norm.name}: {name}", 1000 * spent / len(x), "ms a sample", note)


PARTS = (agreement, searching, training, proofs, beside)


@click.command()
@click.option("--minutes", default=4.0, show_default=True, help="No part begins later.")
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write every figure there, as it comes.")
def main(minutes: float, device: str, out: Path | None) -> None:
    """Prints one table."""
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    machine, end, rows = Machine(place, place.type != "cpu"), time.monotonic() + 60 * minutes, []
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{torch.get_num_threads()} threads"
    about = {"device": f"{place.type}, {name}", "torch": torch.__version__, "marginkit": _version()}
    for part in PARTS:
        for row in _guarded(part, machine, end):
            rows.append(row)
            click.echo(" | ".join([row.part, row.what, _value(row), row.note]), err=True)
            if out is not None:
                out.write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1))
    table = Table("", "", "", "", title=", ".join(f"{k} {v}" for k, v in about.items()))
    for row in rows:
        table.add_row(row.part, row.what, _value(row), row.note)
    Console(width=150).print(table)


def _guarded(part: Callable[[Machine], Iterator[Row]], machine: Machine, end: float) -> Iterator[Row]:
    """The part's rows, until the time is up or it fails."""
    rows = part(machine)
    while time.monotonic() < end:
        try:
            yield next(rows)
        except StopIteration:
            return
        except Exception as error:  # the other parts are worth having
            yield Row(part.__name__, f"failed: {type(error).__name__}: {error}", None)
            return
    yield Row(part.__name__, "the time is up: what is missing was left out", None)


def _value(row: Row) -> str:
    return "" if row.value is None else f"{row.value:.4g} {row.unit}".strip()


def _version() -> str:
    try:
        return version("marginkit")
    except Exception:  # run from a checkout
        return "checkout"


if __name__ == "__main__":
    main()
