"""Models of RobustBench's zoo, by the installed package, with weights that are there."""

from __future__ import annotations

from pathlib import Path

from marginkit.errors import MarginkitError, UsageError
from marginkit.models.request import NOT_CACHED, Found, Request, failing
from marginkit.versions import optional_package

OPTIONS = {"dataset": "cifar10", "threat_model": "Linf", "model_dir": "models"}


def robustbench(asked: Request) -> Found:
    """A model of the zoo; its weights lie in MODEL_DIR/DATASET/THREAT_MODEL, as the package puts them.

    The package fetches what is missing without being asked, so it is not called where nothing is there.
    """
    options = {name: str(value) for name, value in {**OPTIONS, **asked.options}.items()}
    if asked.weights is not None or set(options) - set(OPTIONS):
        raise UsageError(
            f"robustbench:{asked.name} has its own weights; its options are {', '.join(OPTIONS)}: give those"
            " with --arch-option NAME=VALUE"
        )
    zoo = optional_package("robustbench")
    folder = Path(options["model_dir"]).expanduser() / options["dataset"] / options["threat_model"]
    there = [name for name in (f"{asked.name}.pt", f"{asked.name}_m0.pt") if (folder / name).is_file()]
    if not there and not asked.download:
        raise MarginkitError(f"{folder / asked.name}.pt is missing{NOT_CACHED}, or give its model_dir")
    with failing(f"robustbench:{asked.name}", hint="" if asked.download else NOT_CACHED):
        model = zoo.utils.load_model(
            model_name=asked.name,
            model_dir=str(Path(options["model_dir"]).expanduser()),
            dataset=options["dataset"],
            threat_model=options["threat_model"],
        )
    return Found(model, remarks=(f"robustbench:{asked.name} normalises its inputs itself",))
