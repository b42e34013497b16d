"""The table of label formats that are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from anyregion.io.labels import ClassNames, LabelledImage
from anyregion.io.writers.boxes_csv import write_boxes_csv
from anyregion.io.writers.coco import write_coco, write_coco_results
from anyregion.io.writers.crops import write_crops
from anyregion.io.writers.cvat import write_cvat
from anyregion.io.writers.label_studio import write_label_studio
from anyregion.io.writers.labelme import write_labelme
from anyregion.io.writers.voc import write_voc
from anyregion.io.writers.writing import WriteOptions, WriteReport
from anyregion.io.writers.yolo import write_yolo, write_yolo_segment

Writer: TypeAlias = Callable[[Iterable[LabelledImage], ClassNames, Path, WriteOptions], WriteReport]
WRITERS: dict[str, Writer] = {
    "coco": write_coco,
    "coco-results": write_coco_results,
    "yolo": write_yolo,
    "yolo-segment": write_yolo_segment,
    "voc": write_voc,
    "labelme": write_labelme,
    "label-studio": write_label_studio,
    "cvat": write_cvat,
    "csv": write_boxes_csv,
    "crops": write_crops,
}
