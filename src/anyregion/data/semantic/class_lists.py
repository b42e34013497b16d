"""The classes of the data sets whose files do not state them, in the order of their benchmarks."""

from __future__ import annotations

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
"""Pascal VOC: the value in a label map is the position here, 255 is void."""

CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
"""Cityscapes' 19 classes that are evaluated, by their train ids."""

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The values of these 19 in `*_labelIds.png`; every other one up to 33 is void."""

CITYSCAPES_LARGEST_ID = 33

CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
"""CamVid's 11 classes in the order of SegNet's label maps, where 11 is void."""

ADE20K = 150
"""Number of classes of ADE20K's scene parsing benchmark: values from 1, and 0 is void."""
