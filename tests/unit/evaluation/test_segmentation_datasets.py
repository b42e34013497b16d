"""People's segments as they are read: COCO masks, label maps, CUB-200-2011."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from anyregion.errors import InputError  # noqa: E402
from anyregion.evaluation.backbones.discovery import (  # noqa: E402
    DiscoveryOptions,
    evaluate_discovery,
)
from anyregion.evaluation.backbones.segmentation_datasets import (  # noqa: E402
    open_segmentation_dataset,
)
from tests.helpers.colour_backbone import colour_backbone  # noqa: E402
from tests.helpers.halves import edit  # noqa: E402
from tests.helpers.shared import SHARED, needs_shared  # noqa: E402

SIZE = (30, 40)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def test_the_smaller_mask_lies_on_top(annotated: tuple[Path, Path]) -> None:
    def overlap(content: dict[str, Any]) -> None:
        first, second, third = content["annotations"][:3]
        third["image_id"] = 1
        third["iscrowd"] = 1
        first["segmentation"] = rectangle(10, 10, 20, 20)
        second["segmentation"] = rectangle(0, 0, 40, 20)
        third["segmentation"] = rectangle(0, 15, 40, 30)
        content["annotations"] = [first, second, third]

    edit(annotated[0], overlap)
    data = open_segmentation_dataset(*annotated)
    assert (len(data.images), data.skipped) == (1, 3), "images without masks are counted"
    segments = data.images[0].read_segments(SIZE)
    expected = np.zeros(SIZE, dtype=np.int32)
    expected[15:] = -1
    expected[:20] = 1
    expected[10:20, 10:20] = 2
    assert np.array_equal(segments, expected)
    with pytest.raises(InputError, match="31 x 30, but the annotations say 40 x 30"):
        data.images[0].read_segments((30, 31))


def test_images_with_masks_of_some_regions_only(annotated: tuple[Path, Path]) -> None:
    def bare(content: dict[str, Any]) -> None:
        content["annotations"][1]["segmentation"] = []
        content["annotations"][2]["segmentation"] = [[0, 0, 1]]

    edit(annotated[0], bare)
    data = open_segmentation_dataset(*annotated)
    assert (len(data.images), data.skipped) == (3, 1)
    report = evaluate_discovery(colour_backbone(), data)
    assert (report.images, report.skipped) == (2, 1)
    assert "region 3" in report.set_aside[0].reason, "a malformed mask costs the image"
    (annotated[1] / "3.png").unlink()
    assert "3.png" in open_segmentation_dataset(*annotated).set_aside[0].item


def test_label_maps(tmp_path: Path) -> None:
    maps, images = tmp_path / "maps", tmp_path / "images"
    for folder in (maps, images):
        folder.mkdir()
    values = np.zeros(SIZE, dtype=np.uint8)
    values[:, :10], values[:, 10:20], values[:, 30:] = 7, 40, 255
    Image.fromarray(values).save(maps / "a.png")
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        Image.new("RGB", SIZE[::-1]).save(images / name)
    Image.fromarray(values[:, :5]).save(maps / "b.png")
    Image.new("RGB", SIZE[::-1]).save(maps / "c.png")
    Image.fromarray(values).save(maps / "nobody.png")
    data = open_segmentation_dataset(maps, images)
    assert (len(data.images), data.skipped) == (3, 1)
    assert [Path(a.item).name for a in data.set_aside] == ["nobody.png"]
    expected = np.repeat([[2] * 10 + [3] * 10 + [1] * 10 + [-1] * 10], 30, axis=0)
    assert np.array_equal(data.images[0].read_segments(SIZE), expected)
    behind = (
        open_segmentation_dataset(maps, images, background=0, void=7).images[0].read_segments(SIZE)
    )
    expected = np.repeat([[-1] * 10 + [1] * 10 + [0] * 10 + [2] * 10], 30, axis=0)
    assert np.array_equal(behind, expected)
    with pytest.raises(InputError, match="5 x 30, but its image is 40 x 30"):
        data.images[1].read_segments(SIZE)
    with pytest.raises(InputError, match="has colours"):
        data.images[2].read_segments(SIZE)
    palette = Image.fromarray(values).convert("P")
    palette.putpalette([200 - i % 200 for i in range(768)])
    palette.save(maps / "a.png")
    deep = Image.fromarray(values.astype(np.uint16) * 100)
    assert np.array_equal(data.images[0].read_segments(SIZE) > 0, values < 255), (
        "indices, not colours"
    )
    deep.save(maps / "a.png")
    assert np.unique(
        open_segmentation_dataset(maps, images).images[0].read_segments(SIZE)
    ).tolist() == [1, 2, 3, 4]
    with pytest.raises(InputError, match="folders of their own"):
        open_segmentation_dataset(maps, maps)
    with pytest.raises(InputError, match="both void and background"):
        open_segmentation_dataset(maps, images, background=255)
    with pytest.raises(InputError, match="a split is CUB"):
        open_segmentation_dataset(maps, images, split="test")


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """Four birds in CUB-200-2011's layout: 1 and 3 for training."""
    root = tmp_path / "CUB_200_2011"
    names = [f"00{1 + i // 2}.Bird/Bird_{i:04}.jpg" for i in range(4)]
    for at, name in enumerate(names):
        image = root / "images" / name
        mask = (root / "segmentations" / name).with_suffix(".png")
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((*SIZE, 3), (20, 20, 220), dtype=np.uint8)
        votes = np.zeros(SIZE, dtype=np.uint8)
        votes[4:22, 4:26] = 102  # two of five said bird
        votes[6:20, 6:24] = 153  # three
        votes[8:18, 10:20] = 255
        pixels[6:20, 6:24] = (220, 20, 20)
        Image.fromarray(pixels).save(image, quality=95)
        # some of the archive's masks are grey with an alpha channel
        grey = Image.fromarray(votes)
        (Image.merge("LA", (grey, grey.point(lambda _: 255))) if at == 1 else grey).save(mask)
    (root / "images.txt").write_text("".join(f"{i + 1} {n}\n" for i, n in enumerate(names)))
    (root / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 0\n")
    boxes = "".join(f"{i + 1} 6.0 6.0 18.0 14.0\n" for i in range(4))
    (root / "bounding_boxes.txt").write_text(boxes)
    return root


def test_cub(cub: Path) -> None:
    data = open_segmentation_dataset(cub)
    assert data.layout == "cub"
    assert [s.name[-8:] for s in data.images] == ["0001.jpg", "0003.jpg"], "the test split"
    expected = np.zeros(SIZE, dtype=np.int32)
    expected[6:20, 6:24] = 1
    for scene in data.images:
        assert np.array_equal(scene.read_segments(SIZE), expected)
    assert len(open_segmentation_dataset(cub, split="train").images) == 2
    assert len(open_segmentation_dataset(cub, cub / "images", split="all").images) == 4
    report = evaluate_discovery(colour_backbone(size=64), data, DiscoveryOptions(foreground=True))
    assert report.figures["foreground_iou"] > 0.8
    assert report.images == 2
    # the stated boxes are the birds' own; the photograph's box is three times as large as they
    assert report.figures["box_iou"] > 0.8
    assert report.figures["corloc"] == 1
    assert report.figures["pixel_accuracy"] > 0.95
    assert report.baselines["whole"]["box_iou"] == pytest.approx(18 * 14 / (40 * 30))
    assert report.baselines["whole"]["corloc"] == 0
    (cub / "bounding_boxes.txt").write_text("2 6.0 6.0 18.0\n")
    with pytest.raises(InputError, match="image 2: four numbers"):
        open_segmentation_dataset(cub)
    (cub / "bounding_boxes.txt").unlink()
    assert (
        "box_iou"
        not in evaluate_discovery(
            colour_backbone(size=64),
            open_segmentation_dataset(cub),
            DiscoveryOptions(foreground=True),
        ).figures
    ), "boxes are a file of their own, and may be missing"


def test_cub_with_faults(cub: Path) -> None:
    next((cub / "segmentations").rglob("*0001.png")).unlink()
    next((cub / "images").rglob("*0003.jpg")).unlink()
    data = open_segmentation_dataset(cub)
    assert (len(data.images), data.skipped) == (0, 1)
    assert "0003.jpg" in data.set_aside[0].item
    with pytest.raises(InputError, match="nothing to judge"):
        evaluate_discovery(colour_backbone(), data)
    (cub / "train_test_split.txt").write_text("1 1\n2\n")
    with pytest.raises(InputError, match="line 2"):
        open_segmentation_dataset(cub)
    (cub / "train_test_split.txt").write_text("1 1\n2 yes\n")
    assert len(open_segmentation_dataset(cub).set_aside) == 3
    (cub / "segmentations").rename(cub.parent / "segmentations")
    assert len(open_segmentation_dataset(cub, split="train").images) == 1, "beside the folder"
    (cub.parent / "segmentations").rename(cub.parent / "elsewhere")
    with pytest.raises(InputError, match="no folder segmentations"):
        open_segmentation_dataset(cub)


def test_what_is_nothing(tmp_path: Path, annotated: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_segmentation_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the folder of its images"):
        open_segmentation_dataset(annotated[0])


@needs_shared
def test_partly_masked_photographs_are_skipped() -> None:
    """`instances_val.json` has every box, and masks of some images only."""
    folder = SHARED / "data" / "coco"
    data, masked = (
        open_segmentation_dataset(folder / "annotations" / name, folder / "images")
        for name in ("instances_val.json", "instances_val_masks.json")
    )
    assert {s.name for s in masked.images} <= {s.name for s in data.images}
    assert len(data.images) + data.skipped == 323
