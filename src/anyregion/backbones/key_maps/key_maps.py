"""What one and the same weight is called in torchvision, timm, Hugging Face, detectron2, R2O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anyregion.backbones.key_maps.convnext import CONVNEXT
from anyregion.backbones.key_maps.efficientnet import EFFICIENTNET_LITE0
from anyregion.backbones.key_maps.resnet import RESNET
from anyregion.backbones.key_maps.vit import VIT

QKV = "{qkv}"
"""Stands, in a name, for three tensors of which others make one: query, key, value."""
PARTS = ("query", "key", "value")
Row = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """Architectures whose weights have names that translate one into another.

    Attributes:
        name: `resnet`.
        rows: one weight each, layout to name. `{}` is a number; a name that ends in a dot is the
            beginning of several.
    """

    name: str
    rows: Sequence[Row]

    def layouts(self) -> list[str]:
        """Those that it has names in."""
        return list(self.rows[0])

    def translated(self, names: Iterable[str], source: str, to: str) -> dict[str, str] | None:
        """Names in layout `source`, each with its name in layout `to`; None if one is unknown."""
        patterns = [(_pattern(row[source]), row[to]) for row in self.rows]
        found: dict[str, str] = {}
        for name in names:
            hits = ((pattern.fullmatch(name), other) for pattern, other in patterns)
            hit = next(((match, other) for match, other in hits if match), None)
            if hit is None:
                return None
            found[name] = _filled(hit[1], [g for g in hit[0].groups() if g is not None])
        return found


FAMILIES = (
    Family("resnet", RESNET),
    Family("convnext", CONVNEXT),
    Family("vit", VIT),
    Family("efficientnet_lite0", EFFICIENTNET_LITE0),
)


def family_of(library: str, names: Iterable[str]) -> Family | None:
    """The family all of whose weights these are, in the names of a library; None if none is."""
    listed = list(names)
    for family in FAMILIES:
        if library in family.layouts() and family.translated(listed, library, library):
            return family
    return None


def other_names(library: str, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Layout to own name to theirs, for every layout that these weights have names in.

    The library's own names come first.
    """
    listed = list(names)
    found = {library: {name: name for name in listed}}
    if family := family_of(library, listed):
        for layout in family.layouts():
            names_there = family.translated(listed, library, layout)
            if layout != library and names_there:
                found[layout] = names_there
    return found


def _pattern(text: str) -> re.Pattern[str]:
    # the end of a name is the rest of it, which is copied
    escaped = re.escape(text).replace(re.escape("{}"), r"(\d+)")
    return re.compile(escaped + ("(.+)" if text.endswith(".") else ""))


def _filled(text: str, groups: list[str]) -> str:
    for group in groups[: text.count("{}")]:
        text = text.replace("{}", group, 1)
    return text + "".join(groups[len(groups) - 1 :] if text.endswith(".") else [])
