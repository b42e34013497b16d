"""The backup of a CVAT task's annotations, and how the labels in it are put back."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from anyregion.errors import InputError
from anyregion.files import atomic_path, read_json, to_line, writing
from anyregion.integrations.cvat_server import BATCH, CvatServer, CvatTarget, is_shape

BACKUP_FORMAT = "anyregion-cvat-backup"
Shape = Mapping[str, Any]


def save_backup(
    path: Path, server: CvatServer, target: CvatTarget, before: Any, ids: Sequence[int]
) -> None:
    """Write all annotations as they are, and which shapes will change, for the user alone."""
    content = {
        "format": BACKUP_FORMAT,
        "version": 1,
        "host": server.host,
        "task": target.task,
        "job": target.job,
        "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "named": list(ids),
        "annotations": before,
    }
    with writing(path), atomic_path(path, private=True, durable=True) as temporary:
        temporary.write_bytes(to_line(content))


@dataclass(eq=False)
class CvatRestoreReport:
    """What was put back.

    Attributes:
        restored: shapes that are as they were again.
        same: that were so already.
        gone: that are not there any more, or were moved or drawn anew: they are left.
    """

    restored: int = 0
    same: int = 0
    gone: int = 0


def read_backup(path: Path) -> dict[str, Any]:
    """What `save_backup` wrote.

    Raises:
        InputError: another file.
    """
    content = read_json(path)
    ours = isinstance(content, dict) and content.get("format") == BACKUP_FORMAT
    if not ours or content.get("version") != 1:
        raise InputError(f"{path}: no backup of anyregion cvat name")
    annotations, named = content.get("annotations"), content.get("named")
    shapes = annotations.get("shapes") if isinstance(annotations, dict) else None
    sound = (
        isinstance(content.get("host"), str)
        and type(content.get("task")) is int
        and isinstance(content.get("job"), (int, NoneType))
        and isinstance(named, list)
        and all(type(i) is int for i in named)
        and isinstance(shapes, list)
        and all(map(is_shape, shapes))
    )
    if not sound:
        raise InputError(f"{path}: this backup was edited or damaged; nothing is put back")
    return dict(content)


def restore_task(
    server: CvatServer, target: CvatTarget, backup: Mapping[str, Any], *, dry_run: bool = False
) -> CvatRestoreReport:
    """Give the shapes that were named the label and attributes back that they had.

    Nothing else of the task is touched. CVAT gives a shape that is updated a new id: where the old
    one is gone, the shape is the one of the same frame, type, points and rotation.

    Args:
        server, target: where.
        backup: see `read_backup`.
        dry_run: only count.
    """
    ids = set(backup["named"])
    before = [shape for shape in backup["annotations"]["shapes"] if shape["id"] in ids]
    now = server.annotations(target)["shapes"]
    by_id = {shape["id"]: shape for shape in now}
    by_place: dict[Any, list[Shape]] = defaultdict(list)
    for shape in now:
        if shape["id"] not in ids:
            by_place[_place(shape)].append(shape)
    report = CvatRestoreReport()
    pending: list[dict[str, Any]] = []
    for shape in before:
        current: Shape | None = by_id.get(shape["id"])
        if current is None and by_place[_place(shape)]:
            current = by_place[_place(shape)].pop(0)
        if current is None or _place(current) != _place(shape):
            report.gone += 1
            continue
        restored = {
            **current,
            "label_id": shape["label_id"],
            "attributes": shape.get("attributes") or [],
        }
        if _plain(restored) == _plain(current):
            report.same += 1
        else:
            report.restored += 1
            pending.append(restored)
    for start in range(0, 0 if dry_run else len(pending), BATCH):
        server.update(target, pending[start : start + BATCH])
    return report


def _place(shape: Shape) -> tuple[Any, ...]:
    # as text: what is no list of numbers has a place, too
    points = json.dumps(shape.get("points"))
    return (shape.get("frame"), shape.get("type"), points, shape.get("rotation") or 0)


def _plain(shape: Shape) -> dict[str, Any]:
    """A shape to be compared: attributes have no order."""
    values = sorted((v["spec_id"], v["value"]) for v in shape.get("attributes") or ())
    return {**shape, "attributes": values}
