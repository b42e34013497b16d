"""`Import`: regions of a file, and photographs whose regions were seen before, into a project."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyregion.errors import InputError, SetAside
from anyregion.io.regions import ImageEntry, RegionFile
from anyregion.serve.options import ServeOptions
from anyregion.serve.project.events import check_event
from anyregion.serve.project.store import ProjectImage, ProjectStore
from anyregion.teaching.corrections import NONE_OF_THESE, region_keys
from anyregion.teaching.region_table import RegionTable
from anyregion.vocabulary import name_key

log = logging.getLogger("anyregion.serve")
_EVENTS_AT_ONCE = 1000
# of what cannot be used, so many are logged one by one
_LOGGED = 20


@dataclass(frozen=True, eq=False)
class Import:
    """What a project is begun with, beside a folder of photographs.

    Attributes:
        regions: regions of photographs, with their categories.
        named: whether the categories are what a person said. Else regions come without a name, and
            the categories are but words.
        root: the folder that the file's names, and those of `table`, start from.
        table: regions that the model saw before, with their images. These are photographs of the
            project, which are not read for it; None for none.
    """

    regions: RegionFile
    named: bool = False
    root: Path | None = None
    table: RegionTable | None = None


@dataclass(frozen=True)
class ImportReport:
    """What `import_regions` did.

    Attributes:
        images: photographs that were given regions.
        regions: that were added.
        earlier: regions that were added before, by an earlier start or an entry of the same prompt;
            whether or not they are there still.
        set_aside: images and regions that cannot be used, and why.
    """

    images: int
    regions: int
    earlier: int
    set_aside: tuple[SetAside, ...]


def add_photographs(store: ProjectStore, content: Import) -> None:
    """The images of a table as photographs of a project, by reference: no file is read."""
    if content.table is None or content.root is None:
        return
    for image in dict.fromkeys(content.table.images):
        path = (content.root / image.name).absolute()
        store.add_known(ProjectImage(image.digest, image.name, path, image.size))


def import_regions(store: ProjectStore, content: Import) -> ImportReport:
    """Add the regions of a file to the photographs of a project, each once for ever.

    A region is known by its prompt: the same file on the next start adds nothing, and what a person
    has removed or moved since stays as they left it.

    Args:
        store: of the project.
        content: see there.

    Raises:
        AnyRegionError: the project cannot be written.
    """
    set_aside = list(content.regions.set_aside)
    known = {(e["image"], e["region"]) for e in store.events if e["kind"] == "add"}
    events: list[dict[str, Any]] = []
    images = regions = earlier = 0
    in_project: set[str] = set()
    for image in list(store.images.values()):
        try:
            entry = _entry(store, content, image)
            if entry is None:
                continue
            in_project.add(entry.key)
            if entry.size is not None and entry.size != image.size:
                stated = f"{entry.size[1]} x {entry.size[0]}"
                raise InputError(f"is {image.size[1]} x {image.size[0]}, not {stated}")
        except InputError as error:
            set_aside.append(SetAside(image.name, str(error)))
            continue
        before, sizes = regions, {image.id: image.size}
        for name, of_region in _events(content, entry, image):
            if (image.id, name) in known:
                earlier += 1
                continue
            try:
                events += [check_event(e, sizes, store.limits) for e in of_region]
                known.add((image.id, name))
                regions += 1
            except InputError as error:
                set_aside.append(SetAside(f"{image.name}, region {name}", str(error)))
        images += regions > before
        if len(events) >= _EVENTS_AT_ONCE:
            store.append(events, "import")
            events = []
    if regions:
        words = _words(content.regions, store.limits)
        if new := [word for word in words if word not in store.state.words]:
            events.insert(0, {"kind": "words", "added": new, "removed": []})
    if events:
        store.append(events, "import")
    set_aside += [
        SetAside(str(entry.file_name or entry.key), "no such photograph in the project")
        for entry in content.regions.images.values()
        if entry.key not in in_project and len(entry.regions)
    ]
    for item in set_aside[:_LOGGED]:
        log.warning("regions: set aside: %s", item)
    if len(set_aside) > _LOGGED:
        log.warning("regions: set aside: %d more", len(set_aside) - _LOGGED)
    return ImportReport(images, regions, earlier, tuple(set_aside))


def _entry(store: ProjectStore, content: Import, image: ProjectImage) -> ImageEntry | None:
    """What the file has of a photograph: by its place, or by its name if it was dropped."""
    root = content.root
    if root is not None and image.path.is_relative_to(root.absolute()):
        return content.regions.find(image.path, root=root)
    folder = store.folder / "photographs"
    return content.regions.find(folder / image.name, root=folder)


def _events(
    content: Import, entry: ImageEntry, image: ProjectImage
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """By the id that a region is given in the project, the events that add it."""
    regions, categories = entry.regions, content.regions.categories
    for i, key in enumerate(region_keys(regions)):
        # the file's own id may be any text, and may be another region's in the next file
        name = f"file-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
        prompt: dict[str, Any] = {"box": regions.boxes[i].tolist()}
        mask = regions.masks[i]
        if mask is not None:
            prompt["mask"] = {"size": list(mask["size"]), "counts": mask["counts"]}
        about = {"image": image.id, "region": name}
        event: dict[str, Any] = {"kind": "add", **about, "prompt": prompt, "source": "imported"}
        if regions.scores is not None:
            event["objectness"] = float(regions.scores[i])
        events = [event]
        category = -1 if regions.categories is None else int(regions.categories[i])
        label = categories.get(category, "")
        if content.named and name_key(label):
            right = None if name_key(label) == name_key(NONE_OF_THESE) else label
            events.append({"kind": "name", **about, "label": right})
        yield name, events


def _words(file: RegionFile, limits: ServeOptions) -> list[str]:
    """The categories of a file as words, but for "none of these"."""
    none = name_key(NONE_OF_THESE)
    words = [name for name in file.categories.values() if name_key(name) not in ("", none)]
    return list(dict.fromkeys(words))[: limits.max_names]


def statistics(report: ImportReport | None) -> Mapping[str, int] | None:
    """A report as numbers, for the page."""
    if report is None:
        return None
    return {
        "images": report.images,
        "regions": report.regions,
        "earlier": report.earlier,
        "set_aside": len(report.set_aside),
    }
