"""Models on disk: plain data that loads without running code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor, nn

from marginkit.data.dataset import Bounds
from marginkit.errors import MarginkitError, UsageError
from marginkit.files.atomic import replacing
from marginkit.files.untrusted import require_plain
from marginkit.models.architectures import ARCHITECTURES, Architecture, Shape
from marginkit.models.unpickling import read_plain
from marginkit.models.weights import classes_of, find_states, fitted, refuse_state
from marginkit.options import choose, configure, parse

FORMAT = "marginkit.checkpoint"
VERSION = 1
REQUIRED = ("state", "architecture", "options", "shape", "classes", "bounds")
Size = Annotated[int, Field(ge=1, lt=2**31)]
FORM: dict[str, Any] = {
    "architecture": str,
    "options": dict[str, Any],
    "shape": Annotated[tuple[Size, ...], Field(max_length=8)],
    "classes": Annotated[Size, Field(ge=2)],
    "bounds": tuple[FiniteFloat | None, FiniteFloat | None],
    "dataset": dict[str, Any],
    "training": dict[str, Any],
    "progress": dict[Any, Any],
}


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and where it came from.

    Attributes:
        state: the model's parameters and buffers.
        architecture: a name from ARCHITECTURES.
        options: the architecture's.
        shape: of one input.
        classes: how many scores the model gives.
        bounds: the box inputs live in, in raw units.
        dataset: name and fingerprint of the training data.
        training: the record of the run: options, versions, and metrics of each epoch.
        progress: what resuming needs besides; empty in a finished model.
    """

    state: dict[str, Tensor]
    architecture: str
    options: dict[str, Any]
    shape: Shape
    classes: int
    bounds: Bounds = (0.0, 1.0)
    dataset: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Sequential:
        """The model, in eval mode.

        Raises:
            MarginkitError: the state has missing, unexpected or misshapen entries; they are named.
        """
        wanted = self.wanted()
        problems = [
            *[f"missing {key}" for key in wanted if key not in self.state],
            *[f"unexpected {key}" for key in self.state if key not in wanted],
            *[
                f"{key} is {list(self.state[key].shape)}, expected {list(value.shape)}"
                for key, value in wanted.items()
                if key in self.state and self.state[key].shape != value.shape
            ],
        ]
        if problems:
            more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
            raise MarginkitError(
                f"the weights do not fit {self.architecture} for inputs {list(self.shape)} and {self.classes}"
                f" classes: {'; '.join(problems[:6])}{more}"
            )
        model = self._build()(self.shape, self.classes)
        model.load_state_dict(self.state)
        return model.eval()

    def wanted(self) -> dict[str, Tensor]:
        """The state of the architecture, without its numbers.

        Raises:
            MarginkitError: there is no such architecture, or it can't be built so.
        """
        build = self._build()
        try:
            with torch.device("meta"):  # a file may ask for more than fits: see first whether it brings it
                return build(self.shape, self.classes).state_dict()
        except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            if isinstance(error, MarginkitError):
                raise
            raise MarginkitError(
                f"{self.architecture} can't be built with {self.options} for inputs {list(self.shape)}:"
                f" {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error

    def _build(self) -> Architecture:
        return configure(
            choose(ARCHITECTURES, "architecture", self.architecture), self.architecture, self.options
        )


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Writes a checkpoint, whole or not at all; the ending `.safetensors` chooses that format."""
    path = Path(path)
    plain = {name.name: getattr(checkpoint, name.name) for name in fields(checkpoint)}
    plain |= {"format": FORMAT, "version": VERSION}
    state = {key: value.detach().cpu().contiguous() for key, value in checkpoint.state.items()}
    with replacing(path) as temporary:
        if path.suffix == ".safetensors":
            about = {k: v for k, v in plain.items() if k not in ("state", "progress")}
            safetensors.torch.save_file(state, temporary, {"marginkit": json.dumps(about)})
        else:
            torch.save(plain | {"state": state}, temporary)


def load(
    path: str | Path, guess: Mapping[str, Any] | None = None, key: str | None = None
) -> tuple[Checkpoint, list[str]]:
    """Reads a checkpoint, or bare weights, and says in words what had to be changed.

    Never runs code from the file.

    Args:
        path: `.safetensors`, or PyTorch's format.
        guess: architecture, options, shape, classes and bounds, for files that hold weights only. Where they
            have more classes, theirs count; an option `classes` says how many.
        key: which part of such a file, or which prefix, the weights are.

    Returns:
        The checkpoint, and remarks for the user.

    Raises:
        MarginkitError: missing, not a checkpoint, of a newer version, or weights without an architecture.
    """
    path = Path(path)
    _require_file(path, "checkpoint")
    plain = read_plain(path)
    if plain.get("format") == FORMAT:
        if plain.get("version") != VERSION:
            raise MarginkitError(f"{path} has version {plain.get('version')}; this marginkit reads {VERSION}")
        return _restored(path, plain), []
    return _from_weights(path, plain, guess, key)


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a table of measurements keeps of a checkpoint: all but weights, metrics and lists of samples."""
    kept = ("architecture", "options", "shape", "classes", "bounds", "dataset")
    lists = ("history", "regime")
    training = {key: value for key, value in checkpoint.training.items() if key not in lists}
    return {name: getattr(checkpoint, name) for name in kept} | {"training": training}


def _restored(path: Path, plain: dict[str, Any]) -> Checkpoint:
    names = [f.name for f in fields(Checkpoint)]
    if missing := [name for name in ("state", *FORM) if name in REQUIRED and name not in plain]:
        raise MarginkitError(f"{path} is a marginkit checkpoint with parts missing: {', '.join(missing)}")
    refuse_state(path, plain["state"])
    for name in ("options", "dataset", "training"):
        require_plain(plain.get(name, {}), name, path)
    known = {name: plain[name] for name in names if name in plain}
    for name, form in FORM.items():
        try:
            known[name] = TypeAdapter(form).validate_python(known.get(name, {}))
        except ValidationError as error:
            found = ascii(str(plain.get(name))[:60])
            raise MarginkitError(f"{path}: its {name} is {found}: {error.errors()[0]['msg']}") from error
    low, high = known["bounds"]
    if low is not None and high is not None and not low < high:
        raise MarginkitError(f"{path}: its bounds are {low} and {high}; expected a low and a high end")
    return Checkpoint(**known)


def _require_file(path: Path, what: str) -> None:
    if path.is_dir():
        raise MarginkitError(f"{path} is a folder; expected a {what}: name the file in it")
    if not path.is_file():
        raise MarginkitError(f"no such {what}: {path}")


def read_state(
    path: Path, wanted: Mapping[str, Tensor] | None = None, key: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Bare weights by a model's own names, also those of a checkpoint; and remarks for the user."""
    _require_file(path, "file of weights")
    plain = read_plain(path)
    return fitted(
        path, {"state": plain["state"]} if plain.get("format") == FORMAT else plain, wanted or {}, key
    )


def _from_weights(
    path: Path, plain: dict[str, Any], guess: Mapping[str, Any] | None, key: str | None
) -> tuple[Checkpoint, list[str]]:
    if guess is None:
        if not find_states(plain):
            refuse_state(path, None)
        raise MarginkitError(f"{path} holds weights only: say which architecture they belong to with --arch")
    options = dict(guess["options"])
    asked = options.pop("classes", None)
    empty = Checkpoint(
        state={}, **{**guess, "options": options, "classes": _count(asked) or guess["classes"]}
    )
    wanted = empty.wanted()
    state, remarks = fitted(path, plain, wanted, key)
    classes = classes_of(state, wanted, empty.classes) if asked is None else None
    if classes is not None and classes > empty.classes:
        remarks.append(f"the weights have {classes} classes, the data {empty.classes}")
        empty = replace(empty, classes=classes)
    return replace(empty, state=state), remarks


def _count(classes: Any) -> int | None:
    if classes is None:
        return None
    found = parse(classes)
    if not isinstance(found, int) or found < 2:
        raise UsageError(f"--arch-option classes={classes}: expected a number of 2 or more")
    return found
