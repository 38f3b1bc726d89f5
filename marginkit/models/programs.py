"""Models saved as programs: TorchScript and torch.export files. They are code, and loaded only on request."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from marginkit.errors import MarginkitError, UsageError
from marginkit.models.request import Found, Request


def is_program(path: Path) -> bool:
    """Whether the file is TorchScript's or torch.export's, by the names inside it."""
    return _form(path) is not None


def load_program(asked: Request) -> Found:
    """The program, as one layer.

    Raises:
        UsageError: nobody said that the file may be trusted, or there are options for it.
        MarginkitError: it can't be loaded.
    """
    path = Path(asked.name)
    form = _form(path)
    if not asked.trust:
        raise UsageError(
            f"{path} is a {form} file: a program, which may do anything that you may; if you trust where it"
            " comes from, add --trust"
        )
    if asked.options or asked.weights:
        raise UsageError(
            f"{path} is a {form} file with its own weights: it takes no --weights and no options"
        )
    load = _scripted if form == "TorchScript" else _exported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that go out of use, which the user knows
            return Found(Program(load(path)))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MarginkitError(f"{path} is no {form} file that loads here: {reason[:300]}") from error


class Program(nn.Module):
    """A program as a module without parts: what is inside can neither be hooked nor be put into modes."""

    def __init__(self, run: nn.Module) -> None:
        """A loaded program, in eval mode where it has modes."""
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        """What it answers."""
        scores: Tensor = self.run(x)
        return scores

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """None."""
        return iter(())

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Only itself."""
        yield "", self

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Parameter]]:
        """The program's."""
        yield from self.run.named_parameters()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Program:
        self.run._apply(fn)  # type: ignore[no-untyped-call]
        return self


def _form(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return None
    if any(name.startswith("code/") for name in names):
        return "TorchScript"
    if path.suffix == ".pt2" or any(name == "archive_format" for name in names):
        return "torch.export"
    return None


def _scripted(path: Path) -> nn.Module:
    model: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return model.eval()


def _exported(path: Path) -> nn.Module:
    return torch.export.load(path).module()
