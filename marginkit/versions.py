"""Which packages there are, and which produced a file. Imports no torch."""

import importlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from marginkit.errors import MarginkitError


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    names = ("marginkit", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a folder on the path
        return "not installed"


def optional_package(name: str, extra: str = "") -> Any:
    """A package that does not come with this one, or a part of it; `extra` is what brings it.

    Raises:
        MarginkitError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or error.name not in (package, name):
            raise MarginkitError(f"{package} is installed, but can't be imported: {error}") from error
        how = f"pip install 'marginkit[{extra}]' brings it" if extra else f"pip install {package}"
        raise MarginkitError(f"{package} is not installed: {how}") from error
