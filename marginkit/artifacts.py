"""Models and tables that come with marginkit, by name: `artifact:mnist/cross-entropy`."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from marginkit.errors import UsageError

PREFIX = "artifact:"
PACKAGE = "marginkit_artifacts"


def located(path: str | Path, suffix: str = ".h5") -> Path:
    """The path itself; or the file that `artifact:DATA/MODEL` names.

    Args:
        path: any.
        suffix: `.h5` for a table, `.pt` for a model.

    Raises:
        UsageError: there is no artifact of that name; those there are, are named.
    """
    text = Path(path).as_posix()
    if not text.startswith(PREFIX):
        return Path(path)
    found = available(suffix)
    name = text.removeprefix(PREFIX)
    if name not in found:
        raise UsageError(f"no artifact {name!r}; there are {', '.join(found) or 'none installed'}")
    return found[name]


def available(suffix: str = ".h5") -> dict[str, Path]:
    """All artifacts with that suffix, by name."""
    try:
        top = resources.files(PACKAGE)
    except ModuleNotFoundError:  # not installed: the folder beside this package
        top = Path(__file__).parents[1] / "artifacts" / PACKAGE
    folders = sorted((entry for entry in top.iterdir() if entry.is_dir()), key=_name) if top.is_dir() else []
    files = [(folder, file) for folder in folders for file in sorted(folder.iterdir(), key=_name)]
    return {
        f"{folder.name}/{file.name.removesuffix(suffix)}": Path(str(file))
        for folder, file in files
        if file.name.endswith(suffix)
    }


def _name(entry: Traversable) -> str:
    return entry.name
