"""Models on disk: plain data that loads without running code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from marginkit.data.dataset import Bounds
from marginkit.errors import MarginkitError
from marginkit.files.atomic import replacing
from marginkit.files.untrusted import json_object, printable, refuse_zip_bomb, require_plain
from marginkit.models.architectures import ARCHITECTURES, Shape
from marginkit.options import choose, configure

FORMAT = "marginkit.checkpoint"
VERSION = 1
WRAPPERS = ("state", "state_dict", "model_state_dict", "model")  # where others keep the weights
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
        build = configure(
            choose(ARCHITECTURES, "architecture", self.architecture), self.architecture, self.options
        )
        try:
            with torch.device("meta"):  # a file may ask for more than fits: see first whether it brings it
                wanted = build(self.shape, self.classes).state_dict()
        except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            if isinstance(error, MarginkitError):
                raise
            raise MarginkitError(
                f"{self.architecture} can't be built with {self.options} for inputs {list(self.shape)}:"
                f" {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
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
        model = build(self.shape, self.classes)
        model.load_state_dict(self.state)
        return model.eval()


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


def load(path: str | Path, guess: Mapping[str, Any] | None = None) -> tuple[Checkpoint, list[str]]:
    """Reads a checkpoint, or bare weights, and says in words what had to be changed.

    Never runs code from the file.

    Args:
        path: `.safetensors`, or PyTorch's format.
        guess: architecture, options, shape, classes and bounds, for files that hold weights only.

    Returns:
        The checkpoint, and remarks for the user.

    Raises:
        MarginkitError: missing, not a checkpoint, of a newer version, or weights without an architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise MarginkitError(f"no such checkpoint: {path}")
    plain = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if plain.get("format") == FORMAT:
        if plain.get("version") != VERSION:
            raise MarginkitError(f"{path} has version {plain.get('version')}; this marginkit reads {VERSION}")
        return _restored(path, plain), []
    return _from_weights(path, plain, guess)


def refuse_state(path: Path, state: Any) -> None:
    """Refuses what is not a dict of tensors, each as large as what the file holds of it.

    A tensor of strides 0 looks a million times larger than it is, until it is copied.
    """
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise MarginkitError(f"{path} is neither a marginkit checkpoint nor a dict of weights")
    for name, value in state.items():
        if not isinstance(name, str) or not name.isprintable():
            raise MarginkitError(f"{path} has a weight called {ascii(name)[:60]}; expected a plain name")
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise MarginkitError(
                f"{path}: {name} is a {value.layout} tensor of {value.dtype}; expected a plain one"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise MarginkitError(
                f"{path}: {name} is {list(value.shape)}, but the file holds only"
                f" {value.untyped_storage().nbytes()} bytes of it"
            )


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a table of measurements keeps of a checkpoint: all but weights, metrics and lists of samples."""
    kept = ("architecture", "options", "shape", "classes", "bounds", "dataset")
    lists = ("history", "regime")
    training = {key: value for key, value in checkpoint.training.items() if key not in lists}
    return {name: getattr(checkpoint, name) for name in kept} | {"training": training}


def _read_torch(path: Path) -> dict[str, Any]:
    refuse_zip_bomb(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which the user can't mend
            plain = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes the unpickler fail in any way
        reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise MarginkitError(f"{path} is not a checkpoint that loads safely: {reason}") from error
    if not isinstance(plain, dict):
        raise MarginkitError(
            f"{path} holds a {type(plain).__name__}; expected a dict: a checkpoint or weights"
        )
    return plain


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("marginkit", "{}")
            about = json_object(text, "its metadata", path)
            return {**about, "state": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
    except MarginkitError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise MarginkitError(f"{path} is not a safetensors file: {error}") from error


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


def read_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Bare weights, also those inside a checkpoint, without running code; and remarks for the user."""
    if not path.is_file():
        raise MarginkitError(f"no such file of weights: {path}")
    plain = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _state(path, plain)


def _from_weights(
    path: Path, plain: dict[str, Any], guess: Mapping[str, Any] | None
) -> tuple[Checkpoint, list[str]]:
    state, remarks = _state(path, plain)
    if guess is None:
        raise MarginkitError(f"{path} holds weights only: say which architecture they belong to with --arch")
    return Checkpoint(state=state, **guess), remarks


def _state(path: Path, plain: dict[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    inside = next((key for key in WRAPPERS if key in plain), None)
    state = plain[inside] if inside else plain
    refuse_state(path, state)
    remarks = []
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            remarks.append(f"took the prefix {prefix!r} off every weight's name")
    return state, remarks
