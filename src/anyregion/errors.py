"""The errors that the package raises on purpose, and the record of an item that was left out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec


class AnyRegionError(Exception):
    """Base of every error raised on purpose: its text says what happened and what to do."""


class InputError(AnyRegionError, ValueError):
    """The caller's image, regions, vocabulary or file cannot be used as it is."""


class CheckpointError(AnyRegionError, ValueError):
    """A file of weights is broken, of another layout or size, or carries pickled code."""


class MissingExtraError(AnyRegionError, ImportError):
    """A command or class needs packages that the core does not install."""


class InputWarning(UserWarning):
    """The input leaves something open: the text says what was assumed."""


@dataclass(frozen=True)
class SetAside:
    """One item of a batch that was left out, and why; the rest went on."""

    item: str
    reason: str

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}"


def package_version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    from importlib import metadata  # slow to import, and rarely needed

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def require(extra: str, *modules: str) -> None:
    """Raise `MissingExtraError` naming the extra to install unless every module can be found."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"this needs {', '.join(missing)}, which the core leaves out: "
            f"pip install 'anyregion[{extra}]', or in a clone of the repository "
            f"pip install '.[{extra}]'"
        )
