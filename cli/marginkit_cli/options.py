"""Options that several commands share: data, running, output; and their types."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from marginkit import defaults

from .config import configured
from .output import unread

Command = TypeVar("Command", bound=Callable[..., Any])
Bounds = tuple[float | None, float | None]


def bounds(text: str) -> Bounds:
    """`LOW,HIGH` or `none`; either end may be `none`."""
    ends = ["none", "none"] if text == "none" else text.split(",")
    try:
        low, high = (None if end.strip() == "none" else float(end) for end in ends)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not LOW,HIGH or none") from None
    if low is not None and high is not None and low >= high:
        raise click.BadParameter(f"the lower bound {low:g} is not below the upper bound {high:g}")
    return low, high


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise click.BadParameter("give at least one name")
    return found


def assignment(text: str) -> tuple[str, str]:
    """`NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def assignments(text: str) -> dict[str, str]:
    """`NAME=VALUE` pairs with commas between."""
    return dict(assignment(part.strip()) for part in text.split(",") if part.strip())


def size(text: str) -> int | str:
    """A number from 1 up, or `auto`."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither auto nor a number from 1 up")
    return int(text)


PATH = click.Path(path_type=Path, dir_okay=False)
STRICT = 3  # exit code where --strict finds doubts


def _together(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_options = _together(
    [
        click.option(
            "--model",
            default="model.pt",
            show_default=True,
            metavar="SPEC",
            help="A checkpoint, FILE.onnx, module:factory, torchvision:NAME and others: docs/models.md.",
        ),
        click.option("--arch", help="What the weights belong to, where the file does not say."),
        click.option(
            "--arch-option",
            multiple=True,
            type=assignment,
            metavar="NAME=VALUE",
            help="Of that architecture, or of the factory.",
        ),
        click.option("--weights", type=PATH, metavar="FILE", help="For a model that is not a checkpoint."),
        click.option(
            "--weights-key", metavar="KEY", help="Which of several states in a file of weights to take."
        ),
        click.option(
            "--app-dir",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="Where the factory's module is, if it is not installed.",
        ),
        click.option(
            "--trust", is_flag=True, help="Load a TorchScript or torch.export file: it may run any code."
        ),
    ]
)

data_options = _together(
    [
        click.option(
            "--data-root",
            type=click.Path(path_type=Path),
            default=Path("data"),
            show_default=True,
            help="Folder of torchvision's data sets.",
        ),
        click.option("--download", is_flag=True, help="Fetch data sets and weights that are missing."),
        click.option("--image-size", type=click.IntRange(1), help="Resize and crop images to squares."),
        click.option(
            "--array-keys",
            type=assignments,
            default="",
            metavar="x=NAME,y=NAME",
            help="The names of inputs and labels in an .npz file or an hf: data set.",
        ),
        click.option(
            "--bounds",
            type=bounds,
            metavar="LOW,HIGH",
            help="The box inputs live in: LOW,HIGH or none.  [default: 0,1]",
        ),
    ]
)


def _run_options(batch_size: Any, about_batches: str) -> Callable[[Command], Command]:
    return _together(
        [
            click.option(
                "--device", default=defaults.DEVICE, show_default=True, help="auto, cpu, cuda, cuda:1, ..."
            ),
            click.option(
                "--seed", type=int, default=defaults.SEED, show_default=True, help="Of everything random."
            ),
            click.option(
                "--batch-size",
                type=batch_size,
                metavar="N",
                default=str(defaults.BATCH_SIZE),
                show_default=True,
                help=about_batches,
            ),
            click.option(
                "--workers",
                type=click.IntRange(0),
                default=defaults.WORKERS,
                show_default=True,
                help="Processes that load images ahead.",
            ),
        ]
    )


run_options = _run_options(click.IntRange(1), "Samples at a time.")
measure_run_options = _run_options(size, "Samples at a time; auto for the fastest of a short trial.")

_output = _together(
    [
        click.option(
            "--json",
            "json_file",
            type=click.Path(allow_dash=True, path_type=Path),
            metavar="FILE",
            help="Write the figures as JSON; - for standard output, and nothing else there.",
        ),
        click.option("--overwrite", is_flag=True, help="Write over existing files."),
        click.option(
            "-q",
            "--quiet",
            count=True,
            help="No progress and no remarks; -qq prints nothing but errors.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Say more about what is done."),
        click.option(
            "--config",
            type=PATH,
            callback=configured,
            is_eager=True,
            expose_value=False,
            help="TOML file of options: `batch-size = 64`, or in a table [measure].",
        ),
    ]
)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of output; before any work they refuse to write over a file of figures."""

    @functools.wraps(command)
    def checked(*args: Any, **options: Any) -> Any:
        from marginkit.files.atomic import require_absent

        path = options["json_file"]
        if path is not None and str(path) != "-":
            require_absent(path, options["overwrite"] or bool(options.get("resume")))
        return command(*args, **options)

    return _output(checked)


tracking_option = click.option(
    "--log-to",
    multiple=True,
    metavar="TRACKER",
    help="Also tell tensorboard:FOLDER, wandb:PROJECT or mlflow:EXPERIMENT; each by its extra.",
)
details_option = click.option(
    "--details", is_flag=True, help="Print every table before the answer, which stands alone by default."
)


def grouped(assignments: Sequence[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """`method.option=value` pairs by method."""
    found: dict[str, dict[str, str]] = {}
    for name, value in assignments:
        method, dot, option = name.rpartition(".")
        if not dot:
            raise click.UsageError(f"--option {name}={value} names no method: write METHOD.{name}={value}")
        found.setdefault(method, {})[option] = value
    return found


def write_json(value: Any, path: Path | None) -> None:
    """Strict JSON: NaN becomes null, infinities the strings "inf" and "-inf"."""
    if path is None:
        return
    text = json.dumps(plain(value), indent=2, allow_nan=False)
    if str(path) == "-":
        with unread():
            click.echo(text)
        return
    from marginkit.files.atomic import replacing

    with replacing(path) as temporary:
        temporary.write_text(text + "\n")


def plain(value: Any) -> Any:
    """The value with NaN and infinities as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
