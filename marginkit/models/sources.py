"""Models that are not checkpoints of ours: a function of the user's, or a library's model by name."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from marginkit.errors import MarginkitError, UsageError
from marginkit.files.atomic import sha256
from marginkit.models.checkpoint import read_state
from marginkit.models.request import NOT_CACHED, Found, Request, failing
from marginkit.models.robustbench import robustbench
from marginkit.versions import optional_package


def is_factory(spec: str) -> bool:
    """Whether it reads like `package.module:function`."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", spec) is not None


def factory(asked: Request) -> Found:
    """Calls the user's function with the options. It is the user's code, named by the user: it runs."""
    module, _, function = asked.name.partition(":")
    with _importing_from(asked.app_dir), failing(asked.name):
        try:
            home = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise
            raise MarginkitError(
                f"no module {module!r}: install it, or say in which folder it is with --app-dir"
            ) from error
        make = getattr(home, function, None)
        if not callable(make):
            raise MarginkitError(f"{module} has no function {function!r} that makes a model")
        model = make(**asked.parsed)
    if not isinstance(model, nn.Module):
        raise MarginkitError(f"{asked.name} returned a {type(model).__name__}; expected a torch.nn.Module")
    note = () if asked.weights else (f"{asked.name} is measured as it was made: no --weights were given",)
    return Found(model, remarks=note)


def torchvision(asked: Request) -> Found:
    """A classifier of torchvision's, with its own weights or the user's, and its own normalisation."""
    from torchvision import models

    if asked.name not in models.list_models(module=models):
        raise UsageError(
            f"torchvision has no classifier {asked.name!r}: see torchvision.models.list_models()"
        )
    options = asked.built("num_classes")
    known = models.get_model_weights(asked.name)
    chosen = str(options.pop("weights", "DEFAULT"))
    if chosen not in known.__members__:
        raise UsageError(
            f"{asked.name} has no weights {chosen!r}; choose from {', '.join(known.__members__)}"
        )
    weights = known[chosen]
    with failing(f"torchvision:{asked.name}"):
        if asked.weights is None:
            _cached(weights.url, asked.download)
            model = models.get_model(asked.name, weights=weights, **options)
        else:
            model = models.get_model(asked.name, **options)
    about = weights.transforms()
    note = f"inputs are normalised as {weights} is: mean {about.mean}, std {about.std}"
    return Found(model, tuple(about.mean), tuple(about.std), (note,))


def timm(asked: Request) -> Found:
    """A model of timm's, its weights from the Hugging Face cache or the user's, normalised as timm says."""
    library = optional_package("timm", "timm")
    if not library.is_model(asked.name.partition(".")[0]):
        raise UsageError(f"timm has no model {asked.name!r}: see timm.list_models()")
    if "pretrained" in asked.parsed:
        raise UsageError(
            f"timm:{asked.name} takes no option 'pretrained': its weights are the hub's, or those of"
            " --weights FILE, where torch.save(model.state_dict(), FILE) puts a model's own"
        )
    with failing(f"timm:{asked.name}"):
        model = library.create_model(asked.name, pretrained=False, **asked.built("num_classes"))
    about = model.pretrained_cfg
    if asked.weights is None:
        if not (home := about.get("hf_hub_id")):
            raise MarginkitError(f"timm:{asked.name} has no weights on the Hugging Face hub: give --weights")
        hub = optional_package("huggingface_hub", "timm")
        with failing(f"timm:{asked.name}", hint=NOT_CACHED):
            path = hub.hf_hub_download(home, "model.safetensors", local_files_only=not asked.download)
        with failing(f"timm:{asked.name}"):
            model.load_state_dict(read_state(Path(path), model.state_dict())[0])
    note = f"inputs are normalised as timm does: mean {about['mean']}, std {about['std']}"
    return Found(model, tuple(about["mean"]), tuple(about["std"]), (note,))


def hugging_face(asked: Request) -> Found:
    """An image classifier of transformers, by its name on the hub or its folder; never with remote code."""
    library = optional_package("transformers", "hf")
    common = {"local_files_only": not asked.download, "trust_remote_code": False}
    auto = library.AutoModelForImageClassification
    with failing(f"hf:{asked.name}", hint=NOT_CACHED):
        if asked.weights is None:
            model = auto.from_pretrained(
                asked.name, use_safetensors=True, **common, **asked.built("num_labels")
            )
        else:
            about = library.AutoConfig.from_pretrained(asked.name, **common, **asked.built("num_labels"))
            model = auto.from_config(about)
        about = library.AutoImageProcessor.from_pretrained(asked.name, use_fast=True, **common)
    mean, std = getattr(about, "image_mean", None), getattr(about, "image_std", None)
    if not getattr(about, "do_normalize", False) or mean is None or std is None:
        return Found(_Logits(model), remarks=(f"hf:{asked.name} does not normalise its inputs",))
    note = f"inputs are normalised as hf:{asked.name} says: mean {mean}, std {std}"
    return Found(_Logits(model), tuple(mean), tuple(std), (note,))


SOURCES: dict[str, Callable[[Request], Found]] = {
    "torchvision": torchvision,
    "timm": timm,
    "hf": hugging_face,
    "robustbench": robustbench,
}


class _Logits(nn.Module):
    """A model of transformers that answers with a tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).logits
        return logits


def _cached(url: str, download: bool) -> None:
    """Sees to it that torch.hub's cache has the file, whole: its name ends in the start of its SHA-256."""
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        if not download:
            raise MarginkitError(f"{path} is missing: add --download to fetch it, or give --weights")
        return
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    if digest and not sha256(path).startswith(digest.group(1)):
        raise MarginkitError(f"{path} is not the file that {url} gave: its SHA-256 differs; delete it")


@contextmanager
def _importing_from(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder.absolute()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.absolute()))
