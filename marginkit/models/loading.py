"""The model to measure and the data to measure it on, from what the user says on a command line."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.data.dataset import Bounds, Data, Source
from marginkit.data.sources import load
from marginkit.errors import MarginkitError, UsageError
from marginkit.files.atomic import sha256
from marginkit.files.untrusted import refuse_path
from marginkit.guard.answer import answer
from marginkit.models.architectures import Normalize
from marginkit.models.checkpoint import Checkpoint, describe, read_state
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.models.digest import model_digest
from marginkit.models.onnx.loading import load_onnx
from marginkit.models.programs import is_program, load_program
from marginkit.models.request import Found, Request
from marginkit.models.sources import SOURCES, factory, is_factory
from marginkit.models.weights import classes_of

LOOKED_AT = 2  # samples that a model is tried on


@dataclass(frozen=True)
class Loading:
    """What loading a model takes beside its spec.

    Attributes:
        architecture: a name from ARCHITECTURES, for a file of bare weights.
        options: the architecture's or the factory's; may be text.
        weights: a file of weights for a model that is not a checkpoint.
        weights_key: which part of a file of weights, or which prefix of their names, where it has several.
        app_dir: where a factory's module is, if it is not installed.
        trust: load files that may run code.
        download: fetch pretrained weights that are not in the library's cache.
    """

    architecture: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    weights_key: str | None = None
    app_dir: Path | None = None
    trust: bool = False
    download: bool = False


@dataclass(frozen=True)
class Subject:
    """A model in eval mode that takes raw inputs, and its data.

    Attributes:
        model: gives logits.
        data: what to measure it on.
        bounds: the box inputs live in.
        about: the model's provenance, for the table.
        remarks: what the user should know of how it was loaded.
    """

    model: nn.Module
    data: Data
    bounds: Bounds
    about: dict[str, Any]
    remarks: list[str]


def load_subject(
    spec: str | Path,
    loading: Loading,
    dataset: str | None = None,
    source: Source | None = None,
    bounds: Bounds | None = None,
) -> Subject:
    """The model that a spec names.

    Args:
        spec: a checkpoint's path; `torchvision:NAME`, `timm:NAME`, `hf:NAME`; `module:factory`, a function
            that returns a model for raw inputs; or an ONNX, TorchScript or torch.export file.
        loading: what else it takes.
        dataset: what to measure it on; by default the data set that a checkpoint was trained on.
        source: where to find that.
        bounds: another box than the checkpoint's, by default [0, 1].

    Raises:
        MarginkitError: there is no such model or data, they do not fit each other, or a file is not safe.
    """
    name, _, rest = str(spec).partition(":")
    path = Path(spec)
    if rest and name in SOURCES:
        return _foreign(str(spec), SOURCES[name], rest, loading, dataset, source, bounds)
    if is_factory(str(spec)) and not path.is_file():
        return _foreign(str(spec), factory, str(spec), loading, dataset, source, bounds)
    if path.suffix.lower() == ".onnx":
        return _foreign(str(spec), load_onnx, str(spec), loading, dataset, source, bounds)
    if is_program(path):
        return _foreign(str(spec), load_program, str(spec), loading, dataset, source, bounds)
    if loading.weights is not None:
        raise UsageError(f"--weights is for a factory or a library's model; {spec} is a file of its own")
    return _checkpoint(path, loading, dataset, source, bounds)


def _checkpoint(
    path: Path, loading: Loading, dataset: str | None, source: Source | None, bounds: Bounds | None
) -> Subject:
    guess: dict[str, Any] | None = None
    if loading.architecture is not None:
        if dataset is None:
            raise UsageError(
                "--arch builds the model from the data set's shape and classes: give --dataset too"
            )
        data = load(dataset, source, bounds=bounds or (0.0, 1.0))
        guess = {
            "architecture": loading.architecture,
            "options": dict(loading.options),
            "shape": data.shape,
            "classes": data.classes,
            "bounds": bounds or (0.0, 1.0),
        }
    checkpoint, remarks = load_checkpoint(path, guess, loading.weights_key)
    data = _data_of(path, checkpoint, dataset, source, bounds)
    checkpoint = replace(checkpoint, bounds=checkpoint.bounds if bounds is None else bounds)
    about = {"file": path.name, "sha256": sha256(path), **describe(checkpoint)}
    return Subject(checkpoint.model(), data, checkpoint.bounds, about, [*remarks, *data.remarks])


def _data_of(
    path: Path, checkpoint: Checkpoint, dataset: str | None, source: Source | None, bounds: Bounds | None
) -> Data:
    name = dataset or checkpoint.dataset.get("name")
    if not isinstance(name, str):
        raise UsageError(f"{path} does not say what it was trained on: give --dataset")
    if dataset is None:
        refuse_path(name.partition(":")[2], f"{path} was trained on {name!r}", f"--dataset {name!r}")
    source = source or Source()
    named = replace(source, class_names=_class_names(path, checkpoint) or source.class_names)
    data = load(name, named, bounds=checkpoint.bounds if bounds is None else bounds)
    if data.shape != checkpoint.shape:
        square = name.startswith("imagefolder:") and len(set(checkpoint.shape[1:])) == 1
        advice = f": add --image-size {checkpoint.shape[-1]}" if square else ""
        raise MarginkitError(
            f"{name} has inputs {list(data.shape)}, but {path} takes {list(checkpoint.shape)}{advice}"
        )
    return data


def _class_names(path: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    names = checkpoint.dataset.get("classes", ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise MarginkitError(f"{path}: its classes are {ascii(names)[:60]}; expected a list of names")
    return tuple(names)


def _foreign(
    spec: str,
    find: Any,
    rest: str,
    loading: Loading,
    dataset: str | None,
    source: Source | None,
    bounds: Bounds | None,
) -> Subject:
    if loading.architecture is not None:
        raise UsageError(f"--arch is for files of bare weights; {spec} says itself what it is")
    if dataset is None:
        raise UsageError(f"{spec} does not say what it was trained on: give --dataset")
    box = bounds or (0.0, 1.0)
    data = load(dataset, replace(source or Source(), model=Path(spec).name), bounds=box)
    request = Request(
        rest, dict(loading.options), data.classes, loading.weights, loading.app_dir, loading.trust,
        loading.download, lambda: data.inputs(list(range(min(LOOKED_AT, len(data))))).float(),
    )  # fmt: skip
    found: Found = find(request)
    remarks = list(found.remarks)
    if loading.weights is not None:
        state, more = read_state(loading.weights, found.model.state_dict(), loading.weights_key)
        classes = classes_of(state, found.model.state_dict(), data.classes)
        if classes is not None and classes > data.classes and find in SOURCES.values():
            found = find(replace(request, classes=classes))
            more.append(f"the weights have {classes} classes, the data {data.classes}")
        _fill(found.model, state, spec, loading.weights)
        remarks += more
    model = _normalised(found, data.shape, spec).eval()
    _check_fits(model, data, spec)
    about = {
        "file": spec if loading.weights is None else loading.weights.name,
        "sha256": model_digest(model) if loading.weights is None else sha256(loading.weights),
        "spec": spec,
        "options": dict(loading.options),
        "normalization": None if found.mean is None else {"mean": found.mean, "std": found.std},
        "shape": data.shape,
        "bounds": box,
    }
    return Subject(model, data, box, about, [*remarks, *data.remarks])


def _fill(model: nn.Module, state: Mapping[str, Tensor], spec: str, weights: Path) -> None:
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise MarginkitError(f"{weights} does not fit {spec}: {' '.join(lines)[:300]}") from error


def _normalised(found: Found, shape: tuple[int, ...], spec: str) -> nn.Module:
    if found.mean is None or found.std is None:
        return found.model
    if not shape or shape[0] != len(found.mean):
        raise MarginkitError(
            f"{spec} takes images of {len(found.mean)} channels; these inputs are {list(shape)}"
        )
    normalize = Normalize(shape)
    normalize.mean.copy_(torch.tensor(found.mean).view_as(normalize.mean))
    normalize.std.copy_(torch.tensor(found.std).view_as(normalize.std))
    return nn.Sequential(OrderedDict(normalize=normalize, network=found.model))


def _check_fits(model: nn.Module, data: Data, spec: str) -> None:
    """Asks for two samples, then one: a program may be made for one size of batch only."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    for count in (2, 1):
        positions = [i % len(data) for i in range(count)]
        try:
            with evaluating(model), torch.no_grad():
                scores = answer(model, data.inputs(positions).to(like))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise MarginkitError(
                f"{spec} does not take {count} inputs of shape {list(data.shape)} from {data.name}: {reason}"
            ) from error
        if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != count:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise MarginkitError(
                f"{spec} answers {found} for {count} inputs; expected logits of shape [{count}, classes]"
            )
        if scores.shape[1] <= int(data.labels.max()):
            raise MarginkitError(
                f"{spec} has {scores.shape[1]} scores, but {data.name} has the label {data.labels.max()}:"
                " give weights for these classes"
            )
