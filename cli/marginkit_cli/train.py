"""`marginkit train`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from marginkit import defaults

from .config import recipe
from .options import (
    PATH,
    Bounds,
    assignment,
    data_options,
    names,
    output_options,
    run_options,
    tracking_option,
    write_json,
)
from .output import bars, show, speaks

if TYPE_CHECKING:
    from marginkit.training.range_test import Range


@click.command()
@click.option(
    "--recipe",
    "recipe_name",
    callback=recipe,
    is_eager=True,
    expose_value=False,
    metavar="NAME",
    help="Options that were tried together: docs/training.md lists them. Others given go before.",
)
@click.option(
    "--dataset", default="digits", show_default=True, help="What to train on; see `marginkit datasets`."
)
@click.option(
    "--arch",
    default=defaults.ARCHITECTURE,
    show_default=True,
    help="linear, mlp, cnn, elsayed, resnet, resnet18, lipschitz-mlp or lipschitz-cnn.",
)
@click.option(
    "--arch-option",
    multiple=True,
    type=assignment,
    metavar="NAME=VALUE",
    help="Of the architecture: hidden=200,100 for mlp.",
)
@click.option(
    "--loss",
    default=defaults.LOSS,
    show_default=True,
    help="large-margin, cross-entropy, hinge, adversarial, trades, mma, gradient-penalty, certified, "
    "lipschitz-margin or certified-margin.",
)
@click.option(
    "--loss-option",
    multiple=True,
    type=assignment,
    metavar="NAME=VALUE",
    help="Of the loss: gamma=2, layers=input, ...",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=defaults.EPOCHS,
    show_default=True,
    help="Passes over the data.",
)
@click.option("--optimizer", default=defaults.OPTIMIZER, show_default=True, help="adam, sgd or rmsprop.")
@click.option(
    "--learning-rate", type=float, default=defaults.LEARNING_RATE, show_default=True, help="At the start."
)
@click.option(
    "--schedule", default=defaults.SCHEDULE, show_default=True, help="constant, cosine, linear or step."
)
@click.option(
    "--momentum", type=float, default=defaults.MOMENTUM, show_default=True, help="For sgd and rmsprop."
)
@click.option(
    "--weight-decay", type=float, default=defaults.WEIGHT_DECAY, show_default=True, help="L2 penalty."
)
@click.option(
    "--clip",
    default=str(defaults.CLIP),
    show_default=True,
    help="Cut the gradient's length here; none for never.",
)
@click.option(
    "--noise",
    type=float,
    default=defaults.NOISE,
    show_default=True,
    help="Gaussian noise on inputs, for smoothing.",
)
@click.option(
    "--fraction", type=float, default=defaults.FRACTION, show_default=True, help="Train on a stratified part."
)
@click.option(
    "--label-noise",
    type=float,
    default=defaults.LABEL_NOISE,
    show_default=True,
    help="Flip this share of the labels.",
)
@click.option(
    "--augment",
    metavar="NAMES",
    callback=lambda ctx, param, text: names(text) if text else (),
    help="Of images: shift, flip, crop.",
)
@click.option("--amp", is_flag=True, help="Forward passes in bfloat16: faster on recent GPUs.")
@click.option(
    "--ema",
    type=float,
    default=defaults.EMA,
    show_default=True,
    help="Keep weights averaged with this decay, as .999.",
)
@click.option(
    "--validation",
    type=float,
    default=defaults.VALIDATION,
    show_default=True,
    help="Share held out to choose by.",
)
@click.option(
    "--find-learning-rate",
    is_flag=True,
    help="Train nothing: try rates from 1e-5 to 1 and suggest one.",
)
@click.option("--resume", is_flag=True, help="Go on from OUT's .last.pt where there is one.")
@click.option("--out", type=PATH, default=Path("model.pt"), show_default=True, help=".pt or .safetensors.")
@data_options
@run_options
@tracking_option
@output_options
def train(
    dataset: str,
    arch: str,
    arch_option: tuple[tuple[str, str], ...],
    loss: str,
    loss_option: tuple[tuple[str, str], ...],
    find_learning_rate: bool,
    resume: bool,
    out: Path,
    data_root: Path,
    download: bool,
    image_size: int | None,
    array_keys: dict[str, str],
    bounds: Bounds | None,
    device: str,
    workers: int,
    log_to: tuple[str, ...],
    json_file: Path | None,
    overwrite: bool,
    quiet: int,
    verbose: bool,
    **how: object,
) -> None:
    """Train a classifier, by default a large-margin one on the embedded digits.

    Writes OUT (the best epoch on held-out samples), its .last.pt to resume from, and .metrics.jsonl.
    """
    from marginkit.data.dataset import Source
    from marginkit.data.sources import load
    from marginkit.distributed import find_device, processes
    from marginkit.events import Reported, both
    from marginkit.files.atomic import require_absent
    from marginkit.options import configure
    from marginkit.tracking import tracking
    from marginkit.training.evaluation import test_accuracy
    from marginkit.training.loop import train as run
    from marginkit.training.range_test import range_test
    from marginkit.training.recipe import Recipe

    if not find_learning_rate:
        require_absent(out, overwrite or resume)
    box = bounds or defaults.BOUNDS
    source = Source(
        split="train",
        fresh=True,
        root=data_root,
        download=download,
        image_size=image_size,
        array_keys=array_keys,
    )
    found = load(dataset, source, bounds=box)
    place = find_device(device)
    given: dict[str, Any] = {
        "architecture": arch,
        "architecture_options": dict(arch_option),
        "loss": loss,
        "loss_options": dict(loss_option),
        "recipe": configure(Recipe, "train", how),
        "bounds": box,
        "device": place,
    }
    if find_learning_rate:
        with bars(quiet) as shown:
            rates = range_test(found, on_event=shown, **given)
        write_json(asdict(rates), json_file)
        show(rate_lines(rates), quiet or str(json_file) == "-")
        return
    backend = "nccl" if place.startswith("cuda") else "gloo"
    with (
        processes(backend) as ranks,
        bars(quiet) as shown,
        tracking(log_to if speaks() else (), out.stem) as told,
    ):
        checkpoint = run(
            found,
            out,
            **given,
            workers=workers,
            resume=resume,
            on_event=both(shown, told),
            ranks=ranks,
        )
        if not speaks():
            return
        figures = {
            **checkpoint.training["history"][-1],
            "test_accuracy": test_accuracy(checkpoint, found, source, place),
        }
        lines = [
            f"{name.replace('_', ' ')}: {value:.5g}" for name, value in figures.items() if value is not None
        ]
        told(Reported({"test accuracy": figures["test_accuracy"]}, "\n".join(lines), [str(out)]))
    for remark in found.remarks:
        click.echo(remark, err=True)
    write_json({"checkpoint": str(out), **figures}, json_file)
    if verbose:
        lines += [
            f"{option}: {value}"
            for option, value in checkpoint.training.items()
            if option not in ("history", "regime")
        ]
    show([f"wrote {out}", *lines], quiet or str(json_file) == "-")


def rate_lines(found: Range) -> list[str]:
    """The loss at ten rates, and the suggestion."""
    steps = range(0, len(found.rates), max(1, len(found.rates) // 10))
    lines = [f"{found.rates[i]:9.2g}  {found.losses[i]:.5g}" for i in steps]
    return ["     rate  loss", *lines, f"try --learning-rate {found.suggested:.1g}"]
