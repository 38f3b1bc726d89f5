"""`marginkit measure`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from marginkit import defaults
from marginkit.kinds import Status

from .options import (
    PATH,
    STRICT,
    Bounds,
    assignment,
    data_options,
    details_option,
    grouped,
    measure_run_options,
    model_options,
    names,
    output_options,
    tracking_option,
    write_json,
)
from .output import bars, show_answer, speaks

METHOD_FAILED = 5
ANSWERING, NORM = ("verify",), "linf"  # what answers properties
FLEETING = ("--out", "--json", "--shard", "--log-to")
FLAGS = ("--resume", "--overwrite", "-q", "-qq", "--quiet", "-v", "--verbose", "--details")


@click.command()
@model_options
@click.option("--dataset", help="By default what the model was trained on.")
@click.option(
    "--vnnlib",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Properties to answer in place of a data set: a .vnnlib file, a folder of them, or instances.csv.",
)
@click.option(
    "--split",
    type=click.Choice(["test", "train"]),
    default="test",
    show_default=True,
    help="Which part of the data set.",
)
@click.option(
    "--methods",
    type=names,
    metavar="NAMES",
    default=",".join(defaults.METHODS),
    show_default=True,
    help="See `marginkit methods`; also torchattacks:NAME, and column=method.",
)
@click.option(
    "--norms",
    type=names,
    metavar="NAMES",
    default=",".join(defaults.NORMS),
    show_default=True,
    help="l1, l2, linf; l0 or l0_pixels count changes.",
)
@click.option(
    "--layers",
    type=names,
    metavar="NAMES",
    default=",".join(defaults.LAYERS),
    show_default=True,
    help="Where first_order looks: input, hidden, all, or modules' names.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    type=assignment,
    metavar="NAME=VALUE",
    help="Of a method: deepfool.steps=100.",
)
@click.option(
    "--search-at",
    type=names,
    metavar="NAMES",
    default=",".join(defaults.SEARCH_AT),
    show_default=True,
    help="Layers at which searches run: input, hidden, all, or modules' names.",
)
@click.option("--mask", type=PATH, help="A .npy array, true where a feature may change.")
@click.option(
    "--subspace",
    type=click.IntRange(1),
    metavar="N",
    help="Measure within the top N principal directions of the training split (l2, no box).",
)
@click.option(
    "--quantize",
    type=click.Choice(["8bit"]),
    help="Adversarial inputs must survive rounding: to 255 steps of the box.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="Only so many samples, spread evenly over the classes; by the seed, the same for every model.",
)
@click.option("--first", type=click.IntRange(1), help="Only so many samples, the first.")
@click.option("--witnesses", is_flag=True, help="Keep the adversarial inputs in the file.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "bfloat16"]),
    help="Compute in this precision and verify adversarial inputs in float64; bfloat16 for searches only.  "
    "[default: the model's own]",
)
@click.option(
    "--time-limit",
    "time_limits",
    multiple=True,
    type=assignment,
    metavar="METHOD=SECONDS",
    help="Begin no batch with a method after so many seconds of it; --resume goes on.",
)
@click.option("--shard", "part", metavar="I/N", help="Only the I-th of N parts; see `marginkit merge`.")
@click.option("--resume", is_flag=True, help="Go on where a run stopped; add what OUT lacks.")
@click.option("--out", type=PATH, default=Path("margins.h5"), show_default=True, help="The table.")
@click.option(
    "--checks",
    type=click.IntRange(0),
    default=defaults.CHECKS,
    show_default=True,
    metavar="N",
    help="On how many samples to check whether the numbers can be believed; 0 for none.",
)
@click.option("--strict", is_flag=True, help="Exit with 3 where there are doubts about the measurement.")
@data_options
@measure_run_options
@tracking_option
@details_option
@output_options
@click.pass_context
def measure(
    ctx: click.Context,
    model: str,
    arch: str | None,
    arch_option: tuple[tuple[str, str], ...],
    weights: Path | None,
    weights_key: str | None,
    app_dir: Path | None,
    trust: bool,
    dataset: str | None,
    vnnlib: Path | None,
    split: str,
    methods: tuple[str, ...],
    norms: tuple[str, ...],
    layers: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    search_at: tuple[str, ...],
    mask: Path | None,
    subspace: int | None,
    quantize: str | None,
    limit: int | None,
    first: int | None,
    witnesses: bool,
    dtype: str | None,
    time_limits: tuple[tuple[str, str], ...],
    part: str | None,
    resume: bool,
    out: Path,
    checks: int,
    strict: bool,
    details: bool,
    data_root: Path,
    download: bool,
    image_size: int | None,
    array_keys: dict[str, str],
    bounds: Bounds | None,
    device: str,
    seed: int,
    batch_size: int | str,
    workers: int,
    log_to: tuple[str, ...],
    json_file: Path | None,
    overwrite: bool,
    quiet: int,
    verbose: bool,
) -> None:
    """Measure a model's margins, sample by sample, into an HDF5 file.

    Under torchrun, all processes share the work. Exits with 5 where a method failed on some samples.
    """
    from marginkit.artifacts import located
    from marginkit.comparison.standing import scalars
    from marginkit.comparison.summary import figures
    from marginkit.data.dataset import Source
    from marginkit.events import Reported, both
    from marginkit.measurement.measure import measure_file
    from marginkit.measurement.plan import shard
    from marginkit.models.loading import Loading
    from marginkit.report import Answer, summary
    from marginkit.report.terminal import doubts
    from marginkit.table.properties import answers, counted
    from marginkit.tracking import tracking

    if resume and overwrite:
        raise click.UsageError("--resume goes on with what is there, --overwrite replaces it: give one")
    if vnnlib is not None:
        if dataset is not None:
            raise click.UsageError("--vnnlib says what to measure on: leave --dataset out")
        dataset = f"vnnlib:{vnnlib}"
        methods, norms = (
            _given(ctx, name, usual) for name, usual in (("methods", ANSWERING), ("norms", (NORM,)))
        )
    quiet = quiet if speaks() else 2
    with bars(quiet) as shown, tracking(log_to if speaks() else (), out.stem) as told:
        table, remarks = measure_file(
            located(model, ".pt"),
            methods,
            norms,
            layers=layers,
            options=grouped(options),
            loading=Loading(arch, dict(arch_option), weights, weights_key, app_dir, trust, download),
            dataset=dataset,
            source=Source(
                split=split, root=data_root, download=download, image_size=image_size, array_keys=array_keys
            ),
            bounds=bounds,
            search_at=search_at,
            mask=mask,
            subspace=subspace,
            levels=255 if quantize == "8bit" else None,
            limit=limit,
            first=first,
            batch_size=batch_size,
            device=device,
            seed=seed,
            workers=workers,
            witnesses=witnesses,
            dtype=dtype,
            checks=checks,
            time_limits={method: _seconds(method, text) for method, text in time_limits},
            shard=shard(part) if part else (1, 1),
            out=out,
            resume=resume,
            overwrite=overwrite,
            command=["marginkit", *_lasting(sys.argv[1:])],
            light=True,
            on_event=both(shown, told),
        )
        answer, found = Answer.of_table(table), answers(table)
        told(Reported(scalars(answer.standings), str(answer), [str(out)]))
    if not quiet:
        for remark in remarks:
            click.echo(remark, err=True)
    if speaks():
        properties = {"properties": found} if found else {}
        write_json({"table": str(out), **figures(table), **properties}, json_file)
    raised = list(doubts(table))
    text = [*summary(table), *raised] if details or verbose else []
    text += [f"{key}: {value}" for key, value in table.meta.items()] if verbose else []
    show_answer(answer, text, [*counted(found), f"wrote {out}"], quiet=quiet, silent=str(json_file) == "-")
    failed = {c.name: int(n) for c in table.columns if (n := (c.status == Status.FAILED).sum())}
    if failed:
        if speaks():
            counts = ", ".join(f"{name} on {n} of {len(table)} samples" for name, n in failed.items())
            click.echo(f"a method failed: {counts}; --resume tries again", err=True)
        ctx.exit(METHOD_FAILED)
    if strict and raised:
        ctx.exit(STRICT)


def _given(ctx: click.Context, name: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The option where the user gives it, else what is usual here."""
    chosen: tuple[str, ...] = ctx.params[name]
    return usual if ctx.get_parameter_source(name) is click.core.ParameterSource.DEFAULT else chosen


def _seconds(method: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"--time-limit {method}={text}: expected seconds") from None


def _lasting(arguments: list[str]) -> list[str]:
    """The arguments that say what is measured: without those that say where to, how loudly, or which part."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.partition("=")[0] not in (*FLEETING, *FLAGS):
            kept.append(argument)
        skip = not skip and argument in FLEETING
    return kept
