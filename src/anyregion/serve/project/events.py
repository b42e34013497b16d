"""What a person does in a project, event by event, and the state that these add up to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from anyregion.errors import InputError
from anyregion.regions import Regions
from anyregion.serve.options import ServeOptions
from anyregion.serve.requests import known_keys, parse_names, parse_regions

Kind = Literal["words", "add", "move", "remove", "name", "unname"]
REGION = re.compile(r"[A-Za-z0-9_-]{1,64}")
SOURCES = ("drawn", "found", "imported")
_PROMPT_KEYS = ("box", "points", "labels", "mask")


@dataclass(frozen=True)
class ProjectRegion:
    """One region of an image of a project.

    Attributes:
        prompt: `box`, `points` with `labels`, or `mask`, as requests have them.
        source: `drawn` by a person, `found` by a proposer, or `imported` from a file.
        objectness: of a found one, or None.
        named: whether a person said what it is.
        label: what they said; None is "none of these".
    """

    prompt: Mapping[str, Any]
    source: str = "drawn"
    objectness: float | None = None
    named: bool = False
    label: str | None = None


@dataclass
class ProjectState:
    """What a project's events add up to.

    Attributes:
        words: the names that regions may be given.
        regions: by image and id, in the order in which they were added.
    """

    words: list[str] = field(default_factory=list)
    regions: dict[str, dict[str, ProjectRegion]] = field(default_factory=dict)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Go on by one event, as `check_event` returned it.

        An event about a region that is not there changes nothing: in another tab it was removed.
        """
        kind = event["kind"]
        if kind == "words":
            kept = [word for word in self.words if word not in event["removed"]]
            self.words = list(dict.fromkeys([*kept, *event["added"]]))
            return
        regions = self.regions.setdefault(event["image"], {})
        name = event["region"]
        if kind == "add":
            regions[name] = ProjectRegion(
                event["prompt"], event.get("source", "drawn"), event.get("objectness")
            )
        elif name in regions:
            if kind == "remove":
                del regions[name]
            elif kind == "move":
                regions[name] = replace(regions[name], prompt=event["prompt"])
            elif kind == "name":
                regions[name] = replace(regions[name], named=True, label=event["label"])
                if event["label"] is not None and event["label"] not in self.words:
                    self.words.append(event["label"])
            elif kind == "unname":
                regions[name] = replace(regions[name], named=False, label=None)


def check_event(
    event: Any, sizes: Mapping[str, tuple[int, int]], limits: ServeOptions
) -> dict[str, Any]:
    """An event of a request, whole and sound.

    Args:
        event: an object with `kind`; `words` has `added` and `removed` (not the whole list: two
            tabs may change it), all others `image` and `region`, `add` and `move` a `prompt`,
            `name` a `label` (null: none of these).
        sizes: `(height, width)` of the images that there are.
        limits: how much may be given.

    Raises:
        InputError: what is wrong with it.
    """
    if not isinstance(event, dict) or event.get("kind") not in get_args(Kind):
        raise InputError(f"kind must be one of {', '.join(get_args(Kind))}")
    kind = event["kind"]
    if kind == "words":
        known_keys(event, ("kind", "added", "removed"), "it")
        checked: dict[str, Any] = {"kind": kind}
        for key in ("added", "removed"):
            names = event.get(key, [])
            names = parse_names(names, limits, key) if names != [] else []
            checked[key] = [n.strip() for n in dict.fromkeys(names) if n.strip()]
        return checked
    more = {"add": ("prompt", "source", "objectness"), "move": ("prompt",), "name": ("label",)}
    known_keys(event, ("kind", "image", "region", *more.get(kind, ())), "it")
    image, region = event.get("image"), event.get("region")
    if not isinstance(image, str) or image not in sizes:
        raise InputError(f"no image {image!r:.80} in this project")
    if not isinstance(region, str) or not REGION.fullmatch(region):
        raise InputError(f"region must be an id of letters, digits, - and _, not {region!r:.80}")
    checked = {"kind": kind, "image": image, "region": region}
    if kind in ("add", "move"):
        prompt = event.get("prompt")
        if not isinstance(prompt, dict):
            raise InputError("prompt must be an object with a box, points or a mask")
        known_keys(prompt, _PROMPT_KEYS, "prompt")
        prompt_regions({region: prompt}, sizes[image], limits)  # raises
        checked["prompt"] = prompt
    if kind == "add":
        source, objectness = event.get("source", "drawn"), event.get("objectness")
        if source not in SOURCES:
            raise InputError(f"source must be one of {', '.join(SOURCES)}")
        checked["source"] = source
        if objectness is not None:
            number = isinstance(objectness, (int, float)) and not isinstance(objectness, bool)
            if not number or not 0 <= objectness <= 1:
                raise InputError(f"objectness must lie in 0 to 1, not {objectness!r:.40}")
            checked["objectness"] = float(objectness)
    if kind == "name":
        label = event.get("label", "")
        if label is not None and (not isinstance(label, str) or not 0 < len(label.strip()) <= 1000):
            raise InputError(f"label must be a name or null, not {label!r:.40}")
        checked["label"] = None if label is None else label.strip()
    return checked


def prompt_regions(
    prompts: Mapping[str, Mapping[str, Any]], size: tuple[int, int], limits: ServeOptions
) -> Regions:
    """The prompts of regions, by their ids, as `Regions` that fit their image."""
    entries = [{"id": name, **prompt} for name, prompt in prompts.items()]
    return parse_regions(entries, size, limits)[0]
