"""Names put back into the file of a tool: same shapes, same ids, new labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyregion.data.annotations.cvat import OTHER_SHAPES, SHAPES
from anyregion.data.annotations.label_studio import (
    newest_results,
    regions_of,
    shape_of,
)
from anyregion.data.annotations.labelme import is_labelme
from anyregion.data.annotations.layouts import is_label_studio
from anyregion.data.annotations.reading import cvat_file, detect_layout
from anyregion.data.annotations.shape_rows import ShapeRows
from anyregion.data.annotations.xml_reading import read_xml
from anyregion.errors import InputError
from anyregion.files import read_json, write_json, writing
from anyregion.io.labels import LabelledRegion
from anyregion.io.writers.label_studio import named_results, prediction
from anyregion.io.writers.writing import add_element, write_xml, xml_text
from anyregion.vocabulary import name_key

Names = Mapping[str, Mapping[str, LabelledRegion]]
"""By the image's id in the file, and by the region's id as text: the region with its new name."""


@dataclass(eq=False)
class RelabelReport:
    """What was put back.

    Attributes:
        named: regions of the file that got a name.
        left: regions of the file that have none, and stayed as they were.
        new_labels: names that the file's list of classes lacked; they were added.
        files: what was written.
    """

    named: int = 0
    left: int = 0
    new_labels: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def relabel(source: Path, names: Names, out: Path) -> RelabelReport:
    """Write a copy of a file with the new names into a folder; nothing else in it changes.

    COCO: `category_id` (and `score`) of the annotations. Label Studio: `tasks.json`, the tasks with
    a prediction more, and `predictions.json`, the predictions alone by their tasks' ids. CVAT:
    `annotations.xml`, the labels of the shapes. LabelMe: the files, the labels of the shapes.

    Raises:
        InputError: a file of another layout.
    """
    layout = detect_layout(source)
    if layout == "cvat":
        return _cvat(cvat_file(source) or source, names, out)
    if layout == "labelme" or (layout == "coco" and source.is_file()):
        report = RelabelReport()
        if source.is_dir():
            for file in sorted(source.rglob("*.json")):
                key = file.relative_to(source).with_suffix("").as_posix()
                content = read_json(file)
                if is_labelme(content):
                    _labelme(content, names.get(key, {}), out / f"{key}.json", report)
            return report
        content = read_json(source)
        if is_label_studio(content):
            return _label_studio(content, names, out)
        if is_labelme(content):
            _labelme(content, names.get(source.stem, {}), out / source.name, report)
            return report
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            return _coco(content, names, out / source.name)
    raise InputError(
        f"{source}: names are put back into COCO annotations, Label Studio's JSON, CVAT's XML and "
        "LabelMe's files"
    )


def _coco(content: dict[str, Any], names: Names, path: Path) -> RelabelReport:
    report = RelabelReport()
    categories = content.setdefault("categories", [])
    ids = {name_key(str(c.get("name"))): c.get("id") for c in categories if isinstance(c, dict)}
    largest = max((i for i in ids.values() if type(i) is int), default=0)
    seen: set[str] = set()
    for place, row in enumerate(content["annotations"]):
        if not isinstance(row, dict):
            continue
        # called as `load_regions` does: of two of one id the second by its place
        identity = str(row["id"]) if isinstance(row.get("id"), (int, str)) else f"#{place}"
        identity = f"#{place}" if identity in seen else identity
        seen.add(identity)
        region = names.get(str(row.get("image_id")), {}).get(identity)
        if region is None:
            report.left += 1
            continue
        key = name_key(region.label)
        if key not in ids:
            largest += 1
            ids[key] = largest
            categories.append({"id": largest, "name": region.label, "supercategory": ""})
            report.new_labels.append(region.label)
        row["category_id"] = ids[key]
        if region.score is not None:
            row["score"] = region.score
        report.named += 1
    _write(path, content)
    report.files.append(path)
    return report


def _label_studio(content: Any, names: Names, out: Path) -> RelabelReport:
    report = RelabelReport()
    tasks = content if isinstance(content, list) else [content]
    predictions: list[dict[str, Any]] = []
    for place, task in enumerate(tasks):
        if not isinstance(task, dict):
            continue
        identity = task.get("id")
        key = str(identity) if isinstance(identity, (int, str)) else f"#{place}"
        of_task = names.get(key, {})
        results: list[dict[str, Any]] = []
        for number, parts in regions_of(newest_results(task, ShapeRows(), key)).items():
            shape = next((p for p in parts if isinstance(p, dict) and shape_of(p)), None)
            if shape is None:
                continue
            region = of_task.get(str(number))
            if region is None:
                report.left += 1
                continue
            results += named_results(shape, parts, [region.label], region.score)
            report.named += 1
        if results:
            made = prediction(results)
            listed = task.get("predictions")
            # counts of the server, or ids: what is imported has predictions as a list
            task["predictions"] = [*(listed if isinstance(listed, list) else []), made]
            if isinstance(identity, int):
                predictions.append({"task": identity, **made})
    for path, value in ((out / "tasks.json", tasks), (out / "predictions.json", predictions)):
        _write(path, value)
        report.files.append(path)
    return report


def _cvat(source: Path, names: Names, out: Path) -> RelabelReport:
    report, root = RelabelReport(), read_xml(source)
    listed = root.find("meta//labels")
    known = {node.text or "" for node in root.iterfind("meta//labels/label/name")}
    for place, image in enumerate(root.iterfind("image")):
        key = image.get("id") or f"#{place}"
        shapes = [node for node in image if node.tag in (*SHAPES, *OTHER_SHAPES)]
        for number, node in enumerate(shapes):
            region = names.get(key, {}).get(f"{key}:{number}")
            if region is None:
                report.left += node.tag in SHAPES
                continue
            node.set("label", xml_text(region.label))
            # attributes belong to the label that the shape had
            if region.label not in known:
                known.add(region.label)
                report.new_labels.append(region.label)
                if listed is not None:
                    label = add_element(listed, "label")
                    add_element(label, "name", region.label)
                    add_element(label, "attributes")
            report.named += 1
    path = out / "annotations.xml"
    write_xml(path, root)
    report.files.append(path)
    return report


def _labelme(
    content: dict[str, Any], names: Mapping[str, LabelledRegion], path: Path, report: RelabelReport
) -> None:
    groups: dict[tuple[Any, Any], str] = {}
    for place, shape in enumerate(content["shapes"]):
        if not isinstance(shape, dict):
            continue
        number = str(place)
        if shape.get("group_id") is not None and shape.get("shape_type") == "polygon":
            # the parts of one region go by the first of them
            number = groups.setdefault((shape.get("label"), shape["group_id"]), number)
        region = names.get(number)
        if region is None:
            report.left += 1
            continue
        shape["label"] = region.label
        if region.score is not None:
            shape["score"] = region.score
        report.named += number == str(place)
    _write(path, content, indent=2)
    report.files.append(path)


def _write(path: Path, content: Any, *, indent: int | None = None) -> None:
    try:
        with writing(path):
            write_json(path, content, indent=indent)
    except ValueError:
        # Python reads NaN, and nobody else does
        raise InputError(f"{path.name}: the file holds numbers that are not finite") from None
