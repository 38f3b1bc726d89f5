"""What produced a file. Imports no torch."""

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    names = ("marginkit", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
