"""A backbone for other libraries: written, loaded there, and its features compared.

An export that the other library reads differently is an error, and nothing is left at `out`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anyregion.backbones.encoder import Encoder
from anyregion.backbones.export.common import Export
from anyregion.backbones.export.detectron2 import export_detectron2
from anyregion.backbones.export.huggingface import export_huggingface
from anyregion.backbones.export.torchvision_timm import export_timm, export_torchvision
from anyregion.errors import InputError, require

FORMATS: dict[str, tuple[Callable[[Encoder, Path], Export], tuple[str, ...]]] = {
    "torchvision": (export_torchvision, ("torchvision",)),
    "timm": (export_timm, ("timm",)),
    "huggingface": (export_huggingface, ("transformers",)),
    "detectron2": (export_detectron2, ("torchvision",)),
}
"""Format to the function that writes it, and the packages it is checked with."""


def export_encoder(encoder: Encoder, out: str | Path, *, to: str) -> Export:
    """Write a backbone for another library, and check it there.

    The file is read back by the other library's own classes (detectron2, which few can install: by
    the names and shapes that it documents), and both feature maps of one random image are compared.

    Args:
        encoder: the backbone. It is left as it is.
        out: a file (`.pth`, `.pt` or `.safetensors`), or for `huggingface` a folder. It appears
            when it is whole and checked.
        to: `torchvision`, `timm`, `huggingface` or `detectron2`.

    Raises:
        InputError: an unknown format; a backbone that it does not have (says which it has); a
            suffix that is not one of those, or something else in the way.
        CheckpointError: the other library reads something else from it.
        AnyRegionError: it cannot be written.
        MissingExtraError: the other library is missing.
    """
    if to not in FORMATS:
        raise InputError(f"format {to!r}: there are {', '.join(FORMATS)}")
    write, packages = FORMATS[to]
    require("train", *packages)
    return write(encoder, Path(out).expanduser())
