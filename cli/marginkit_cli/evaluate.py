"""`marginkit evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import Bounds, data_options, model_options, output_options, run_options, write_json
from .output import show


@click.command()
@model_options
@click.option("--dataset", help="By default what the model was trained on.")
@click.option(
    "--noise",
    default="0",
    show_default=True,
    metavar="SIGMAS",
    help="Standard deviations of Gaussian noise on the inputs: 0,0.1,0.2.",
)
@data_options
@run_options
@output_options
def evaluate(
    model: str,
    arch: str | None,
    arch_option: tuple[tuple[str, str], ...],
    weights: Path | None,
    weights_key: str | None,
    app_dir: Path | None,
    trust: bool,
    dataset: str | None,
    noise: str,
    data_root: Path,
    download: bool,
    image_size: int | None,
    array_keys: dict[str, str],
    bounds: Bounds | None,
    device: str,
    seed: int,
    batch_size: int,
    workers: int,
    json_file: Path | None,
    overwrite: bool,
    quiet: int,
    verbose: bool,
) -> None:
    """Tell a model's accuracy on the test split, also under Gaussian noise."""
    from marginkit.artifacts import located
    from marginkit.data.dataset import Source
    from marginkit.distributed import find_device
    from marginkit.models.loading import Loading
    from marginkit.training.evaluation import evaluate_file

    try:
        sigmas = [float(sigma) for sigma in noise.split(",")]
    except ValueError:
        raise click.UsageError(f"--noise {noise}: expected numbers with commas between") from None
    found = evaluate_file(
        located(model, ".pt"),
        sigmas,
        loading=Loading(arch, dict(arch_option), weights, weights_key, app_dir, trust, download),
        bounds=bounds,
        dataset=dataset,
        source=Source(root=data_root, download=download, image_size=image_size, array_keys=array_keys),
        device=find_device(device),
        seed=seed,
        batch_size=batch_size,
        workers=workers,
    )
    write_json({"model": model, "accuracy": {f"{s:g}": a for s, a in found.items()}}, json_file)
    lines = [f"noise {sigma:g}: accuracy {100 * accuracy:.2f}%" for sigma, accuracy in found.items()]
    show(lines, quiet or str(json_file) == "-")
