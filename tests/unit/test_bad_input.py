"""Bad input, case by case: each gives the documented result or an error that names the item."""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion import CheckpointError, InputError, Regions, Vocabulary, load_regions, read_image
from anyregion.masks import encode_mask, segmentation_to_rle
from anyregion.scoring import top_names

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def coded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated(orientation: int = 6, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6 is shown turned by 90 degrees
    return coded(Image.fromarray(RGB), "PNG", exif=exif, **options)


def odd_exif() -> bytes:
    """Turned, and with another tag whose value is of a type that cannot be written again."""
    tags = struct.pack("<HHHII", 2, 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x0129, 5, 1, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + tags + struct.pack("<I", 0)
    return coded(Image.fromarray(RGB), "PNG", exif=exif)


def bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def animated() -> bytes:
    frames = [Image.new("RGB", (20, 12), c) for c in ("red", "green", "blue")]
    return coded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def palette() -> Image.Image:
    return Image.fromarray(RGB).quantize(16)


def sixteen_bit() -> bytes:
    return coded(Image.fromarray((np.arange(240).reshape(12, 20) * 256).astype(np.uint16)))


JPEG = coded(Image.fromarray(RGB), "JPEG")

REFUSED_IMAGES: dict[str, tuple[Any, str]] = {
    "missing file": (Path("nowhere.jpg"), "no such file"),
    "zero bytes": (b"", "not an image"),
    "text": (b"hello, I am no image", "not an image"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "truncated"),
    "truncated png": (coded(Image.fromarray(RGB))[:60], "broken or truncated"),
    "decompression bomb": (bomb(), "pixels"),
    "float TIFF": (coded(Image.new("F", (20, 12), 0.5), "TIFF"), "no stated range"),
    "int32 TIFF": (coded(Image.new("I", (20, 12), 200), "TIFF"), "no stated range"),
    "an open file": (io.BytesIO(JPEG), "cannot read a BytesIO"),
    "nothing": (None, "cannot read a NoneType"),
    "float array": (RGB / 255, "uint8"),
    "four channels": (np.zeros((4, 4, 4), np.uint8), r"\(height, width, 3\)"),
    "array without pixels": (np.zeros((0, 4, 3), np.uint8), r"\(height, width, 3\)"),
    "one row of numbers": (np.zeros(4, np.uint8), r"\(height, width, 3\)"),
}


@pytest.mark.parametrize("case", REFUSED_IMAGES)
def test_image_refused(case: str) -> None:
    image, reason = REFUSED_IMAGES[case]
    with pytest.raises(InputError, match=reason):
        read_image(image)


def grey(value: int) -> Callable[[np.ndarray], bool]:
    return lambda pixels: bool((pixels == value).all())


READ_IMAGES: dict[str, tuple[Any, tuple[int, int], Callable[[Any], bool]]] = {
    "16-bit grey keeps its high byte": (
        sixteen_bit(),
        (12, 20),
        lambda p: (p[..., 0].ravel() == np.arange(240)).all() and (p[..., 0] == p[..., 2]).all(),
    ),
    "CMYK becomes RGB": (
        coded(Image.new("CMYK", (20, 12), (0, 255, 255, 0)), "JPEG"),
        (12, 20),
        lambda p: p[..., 0].min() > 240 and p[..., 1].max() < 15,
    ),
    "palette becomes RGB": (
        coded(palette()),
        (12, 20),
        lambda p: (p == np.asarray(palette().convert("RGB"))).all(),
    ),
    "transparency is laid on white": (
        coded(Image.new("RGBA", (20, 12), (0, 0, 0, 0))),
        (12, 20),
        grey(255),
    ),
    "transparent palette too": (
        coded(Image.new("P", (20, 12), 0), transparency=0),
        (12, 20),
        grey(255),
    ),
    "an animation's first frame": (
        animated(),
        (12, 20),
        lambda p: (p == [255, 0, 0]).all(),
    ),
    "EXIF turns the image": (
        rotated(),
        (20, 12),
        lambda p: (p == np.rot90(RGB, -1)).all(),
    ),
    "EXIF with another tag damaged": (
        odd_exif(),
        (20, 12),
        lambda p: (p == np.rot90(RGB, -1)).all(),
    ),
    "EXIF of no known turn": (rotated(9), (12, 20), lambda p: (p == RGB).all()),
    "TIFF turned once, not twice": (
        coded(Image.fromarray(RGB), "TIFF", exif=Image.open(io.BytesIO(rotated())).getexif()),
        (20, 12),
        lambda p: (p == np.rot90(RGB, -1)).all(),
    ),
    "premultiplied transparency": (
        Image.new("RGBA", (20, 12), (0, 0, 0, 0)).convert("RGBa"),
        (12, 20),
        grey(255),
    ),
    "one pixel": (np.full((1, 1, 3), 9, np.uint8), (1, 1), grey(9)),
    "grey array": (np.full((3, 4), 9, np.uint8), (3, 4), grey(9)),
    "bilevel": (coded(Image.new("1", (20, 12), 1)), (12, 20), grey(255)),
    "bytes of a file": (JPEG, (12, 20), lambda p: p.std() > 5),
}


@pytest.mark.parametrize("case", READ_IMAGES)
def test_image_rule(case: str) -> None:
    image, size, holds = READ_IMAGES[case]
    pixels = read_image(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size, 3)
    assert holds(pixels)


REFUSED_REGIONS: dict[str, tuple[dict[str, Any], str]] = {
    "partly NaN": ({"boxes": [[0, 0, np.nan, 5]]}, "region 0: box .* not finite"),
    "NaN row without points": ({"boxes": [[np.nan] * 4]}, "region 0: neither a box"),
    "infinite": ({"boxes": [[0, 0, 5, 5], [0, 0, np.inf, 5]]}, "region 1: box .* not finite"),
    "inverted": ({"boxes": [[5, 0, 1, 5]]}, "empty or inverted"),
    "no area": ({"boxes": [[5, 5, 5, 9]]}, "empty or inverted"),
    "wrong width": ({"boxes": [[1, 2, 3]]}, r"\(N, 4\)"),
    "id of no kind": ({"boxes": [[0, 0, 5, 5]], "ids": [1.5]}, "neither a whole number nor text"),
    "RLE without size": ({"masks": [{"counts": [4]}]}, "with its size"),
    "RLE that lies": ({"masks": [{"size": [5, 6], "counts": "zzzz"}]}, "character|do not add up"),
    "ragged": ({"boxes": [[1, 2, 3, 4], [1, 2]]}, "not an array of numbers"),
    "words": ({"boxes": [["a", "b", "c", "d"]]}, "not an array of numbers"),
    "nothing": ({}, "boxes, points or masks"),
    "id named": ({"boxes": [[5, 0, 1, 5]], "ids": ["cup-7"]}, "region cup-7"),
    "ids short": ({"boxes": [[0, 0, 5, 5]], "ids": []}, "1 regions but 0 ids"),
    "scores long": ({"boxes": [[0, 0, 5, 5]], "scores": [1, 2]}, "1 regions but 2 scores"),
    "score NaN": ({"boxes": [[0, 0, 5, 5]], "scores": [np.nan]}, "score nan is not finite"),
    "point NaN": ({"points": [[[1, np.nan]]]}, "a point is not finite"),
    "background only": (
        {"points": [[[1, 1]]], "point_labels": [[0]]},
        "neither a box, nor a mask, nor a foreground point",
    ),
    "label 2": ({"points": [[[1, 1]]], "point_labels": [[2]]}, "neither 1 .* nor 0"),
    "labels short": ({"points": [[[1, 1], [2, 2]]], "point_labels": [[1]]}, "2 points but 1"),
    "empty mask": ({"masks": [np.zeros((4, 4), bool)]}, "mask is empty"),
    "three-dimensional mask": ({"masks": [np.ones((1, 4, 4), bool)]}, r"\(height, width\)"),
}


@pytest.mark.parametrize("case", REFUSED_REGIONS)
def test_regions_refused(case: str) -> None:
    given, reason = REFUSED_REGIONS[case]
    with pytest.raises(InputError, match=reason):
        Regions.from_prompts(**given)


def test_integer_and_no_boxes() -> None:
    assert Regions.from_boxes(np.array([[1, 2, 3, 4]], np.int32)).boxes.dtype == np.float64
    assert len(Regions.from_boxes([])) == 0
    assert len(Regions.from_boxes(np.zeros((0, 4)))) == 0


def test_fit_clips_and_sets_aside() -> None:
    regions = Regions.from_prompts(
        boxes=[[-5, -5, 30, 8], [40, 2, 60, 9], [2, 2, 6, 6], [np.nan] * 4, [1, 1, 3, 3]],
        points=[None, None, None, [[30, 4]], None],
        masks=[None, None, np.ones((5, 5), bool), None, None],
        ids=["over", "outside", "mask", "point", "fine"],
        scores=[0.1, 0.2, 0.3, 0.4, 0.5],
    )
    fitted, aside = regions.fit(10, 20)
    assert fitted.ids == ("over", "fine")
    assert fitted.boxes.tolist() == [[0, 0, 20, 8], [1, 1, 3, 3]]
    assert fitted.scores is not None
    assert fitted.scores.tolist() == [0.1, 0.5]
    assert {a.item for a in aside} == {"region outside", "region mask", "region point"}
    assert "outside the 20 x 10 image" in aside[0].reason


REFUSED_VOCABULARIES: dict[str, tuple[dict[str, Any], str]] = {
    "no names": ({"names": []}, "empty"),
    "blank names": ({"names": [" ", "\t", ""]}, "empty"),
    "one string": ({"names": "cat"}, "list of strings"),
    "a number": ({"names": ["cat", 3]}, "name 1 is int"),
    "None": ({"names": None}, "list of strings"),
    "a set": ({"names": {"cat"}}, "list of strings"),
    "ids twice": ({"names": ["a", "b"], "ids": [1, 1]}, "share a category id"),
    "template without place": ({"names": ["a"], "templates": ["photo"]}, "must hold one"),
    "no templates": ({"names": ["a"], "templates": []}, "must not be empty"),
    "synonyms short": ({"names": ["a", "b"], "synonyms": [["x"]]}, "2 names but 1 synonyms"),
}


@pytest.mark.parametrize("case", REFUSED_VOCABULARIES)
def test_vocabulary_refused(case: str) -> None:
    given, reason = REFUSED_VOCABULARIES[case]
    with pytest.raises(InputError, match=reason):
        Vocabulary.from_names(**given)


def test_vocabulary_rules() -> None:
    words = Vocabulary.from_names(
        ["Cat", "dog ", "", "cat", "自転車", "DOG"], ids=[3, 5, 6, 7, 9, 11]
    )
    assert words.names == ("Cat", "dog", "自転車")
    assert words.ids == (3, 5, 9)
    reasons = [str(a) for a in words.set_aside]
    assert reasons == [
        "name 2: empty",
        "name 3: 'cat' repeats 'Cat'",
        "name 5: 'DOG' repeats 'dog '",
    ]


def test_one_thing_spelled_twice() -> None:
    words = Vocabulary.from_names(["cell phone", "cell_phone", "wall", "wall-stuff"])
    assert words.names == ("cell phone", "wall")
    assert [a.reason for a in words.set_aside] == [
        "'cell_phone' repeats 'cell phone'",
        "'wall-stuff' repeats 'wall'",
    ]
    assert len(Vocabulary.from_names(["wall", "wall-stuff"], cleaning="published")) == 2
    with pytest.raises(InputError, match="repeat"):
        Vocabulary(("cat", "cat"))


def test_one_word_vocabulary() -> None:
    region, word = np.array([[-1.0, 0.0]], np.float32), np.array([[1.0, 0.0]], np.float32)
    _, scores = top_names(region, word, top_k=5, scale=10, score="softmax")
    assert scores.tolist() == [[1.0]]  # as published: nothing can be refused
    _, scores = top_names(region, word, top_k=5, scale=10, score="sigmoid")
    assert scores[0, 0] < 1e-4


def test_hundred_thousand_words() -> None:
    matrix = RNG.standard_normal((100_000, 16)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    wanted = [3, 50_000, 99_999]
    start = time.perf_counter()
    indices, scores = top_names(matrix[wanted], matrix, top_k=5, scale=50)
    assert indices[:, 0].tolist() == wanted
    assert (np.diff(scores, axis=1) <= 0).all()
    assert time.perf_counter() - start < 20
    names = Vocabulary.from_names([f"thing {i}" for i in range(100_000)])
    assert len(names) == 100_000


@pytest.mark.parametrize(
    ("embeddings", "options", "reason"),
    [
        (np.ones((1, 3), np.float32), {}, "3 wide but the vocabulary 2"),
        (np.full((1, 2), np.nan, np.float32), {}, "not finite"),
        (np.ones((1, 2), np.float32), {"score": "best"}, "softmax or sigmoid"),
        (np.ones((1, 2), np.float32), {"top_k": 0}, "at least 1"),
        (np.ones((1, 2), np.float32), {"top_k": 2.0}, "whole number"),
    ],
)
def test_scoring_refused(embeddings: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        top_names(embeddings, np.eye(2, dtype=np.float32), **{"top_k": 1, "scale": 1, **options})


GOOD = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 4, 4]}


def coco(*annotations: dict[str, Any], **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8, **image}],
        "annotations": list(annotations),
        "categories": [{"id": 2, "name": "cup"}],
    }


REFUSED_FILES: dict[str, tuple[str, str]] = {
    "malformed": ('{"images": [', "malformed JSON at line 1"),
    "not JSON at all": ("hello", "malformed JSON"),
    "a number": ("3", "neither COCO annotations"),
    "empty object": ("{}", "neither COCO annotations"),
    "annotations without images": (json.dumps({"annotations": []}), "images"),
    "a number of 5,000 digits": ("[" + "9" * 5000 + "]", "cannot be read"),
    "boxes that are a number": (json.dumps({"1": {"boxes": 3}}), "malformed"),
    "too deep": ("[" * 100_000, "nested too deeply|malformed"),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_region_file_refused(case: str, tmp_path: Path) -> None:
    content, reason = REFUSED_FILES[case]
    path = tmp_path / "regions.json"
    path.write_text(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_regions(path)
    assert "regions.json" in str(caught.value)


SET_ASIDE: dict[str, tuple[Any, str]] = {
    "unknown image": (coco(GOOD, {**GOOD, "id": 2, "image_id": 9}), "unknown image id 9"),
    "image twice": (
        {**coco(GOOD), "images": coco(GOOD)["images"] * 2},
        "listed twice",
    ),
    "inverted": (coco(GOOD, {**GOOD, "id": 2, "bbox": [5, 5, -2, 1]}), "region 2.*inverted"),
    "three numbers": (coco(GOOD, {**GOOD, "id": 2, "bbox": [5, 5, 2]}), "not four numbers"),
    "no box": (coco(GOOD, {"id": 2, "image_id": 1}), "not four numbers"),
    "box of 400 digits": (
        coco(GOOD, {**GOOD, "id": 2, "bbox": [10**400, 1, 2, 2]}),
        "four numbers",
    ),
    "not an object": (coco(GOOD, 7), "not an object"),  # type: ignore[arg-type]
    "no image id": (coco(GOOD, {"id": 2, "bbox": [1, 1, 4, 4]}), "unknown image id"),
    "id that is no id": (coco(GOOD, {**GOOD, "id": float("nan")}), "neither a whole number"),
    "image without name": (
        {**coco(GOOD), "images": [*coco()["images"], {"id": 2}]},
        "image 2: malformed .*file_name",
    ),
    "image of no size": (
        {
            **coco(GOOD),
            "images": [
                *coco()["images"],
                {"id": 2, "file_name": "b", "height": "tall", "width": 1},
            ],
        },
        "image 2: malformed",
    ),
    "category of no number": (
        {**coco(GOOD), "categories": [{"id": "x", "name": "cup"}]},
        "category .*malformed",
    ),
    "per cent": ([{"image_id": 1, "bbox": [1, 1, 4, 4], "score": s} for s in (0.5, 95)], "0 to 1"),
    "score that is a word": (
        [{"image_id": 1, "bbox": [1, 1, 4, 4], "score": s} for s in (0.5, "high")],
        "0 to 1",
    ),
    "a score missing": (
        {"1": {"boxes": [[1, 1, 5, 5], [1, 1, 5, 5]], "scores": [0.5, None]}},
        "None is not a number",
    ),
    "a polygon that leads far away": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": [[0, 0, 1e300, 0, 1e300, 1e300]]}),
        "farther outside",
    ),
    "RLE of a planet": (
        [
            {"image_id": 1, "bbox": [1, 1, 4, 4]},
            {
                "image_id": 1,
                "bbox": [1, 1, 4, 4],
                "segmentation": {"size": [10**9, 10**9], "counts": "0"},
            },
        ],
        "beyond what COCO",
    ),
    "null box": (coco(GOOD, {**GOOD, "id": 2, "bbox": [None] * 4}), "not four numbers"),
    "RLE of another size": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": {"size": [4, 4], "counts": [16]}}),
        "but the image is",
    ),
    "RLE too short": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": {"size": [8, 8], "counts": [3, 3]}}),
        "do not add up",
    ),
    "hostile RLE": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": {"size": [8, 8], "counts": "zzzzzz~"}}),
        "character|do not add up",
    ),
    "polygon of two points": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": [[1, 1, 2, 2]]}),
        "polygon",
    ),
    "detector, lengths differ": (
        {"1": {"boxes": [[1, 1, 5, 5]]}, "2": {"boxes": [[1, 1, 5, 5]], "scores": [0.1, 0.2]}},
        "differ in number",
    ),
    "result, NaN": (
        [{"image_id": 1, "bbox": [1, 1, 4, 4]}, {"image_id": 1, "bbox": [1, 1, float("nan"), 4]}],
        "not finite",
    ),
}


@pytest.mark.parametrize("case", SET_ASIDE)
def test_region_file_sets_aside(case: str, tmp_path: Path) -> None:
    content, reason = SET_ASIDE[case]
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(content))
    found = load_regions(path, masks=True)
    assert len(found.set_aside) == 1
    assert pytest.importorskip("re").search(reason, str(found.set_aside[0]))
    assert sum(len(e.regions) for e in found.images.values()) == 1  # the good one stays


@pytest.mark.parametrize("counts", ["", "0", "P" * 5, "~~~", "oooo", "`" + "0" * 50, b"\xff", 3])
def test_hostile_codes_never_reach_regions(counts: Any) -> None:
    with pytest.raises(InputError):
        Regions.from_prompts(masks=[{"size": [8, 8], "counts": counts}])


@pytest.mark.parametrize("counts", ["", "0", "P" * 5, "~~~", "oooo", b"\xff"])
def test_hostile_codes_never_reach_the_decoder(counts: str) -> None:
    with pytest.raises(InputError):
        segmentation_to_rle({"size": [8, 8], "counts": counts}, 8, 8)


def test_a_bad_category_costs_its_own_row_only(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": i, "category_id": c} for i, c in enumerate((2, None, "2", 2.0, "x"))]
    (tmp_path / "regions.json").write_text(json.dumps(coco(*rows)))
    regions = load_regions(tmp_path / "regions.json").images["1"].regions
    assert regions.categories is not None
    assert regions.categories.tolist() == [2, -1, 2, 2, -1]


def test_scores_can_be_left_out(tmp_path: Path) -> None:
    results = [{"image_id": 1, "bbox": [1, 1, 4, 4], "score": s} for s in (0.5, 95)]
    (tmp_path / "regions.json").write_text(json.dumps(results))
    regions = load_regions(tmp_path / "regions.json", scores=False).images["1"].regions
    assert (len(regions), regions.scores) == (2, None)


def test_a_frame_that_is_written_over_stays_as_it_was() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    pixels = read_image(frame)
    frame[:] = 255
    assert not pixels.any()


def test_compressed_codes_pass() -> None:
    for _ in range(50):
        mask = RNG.random((9, 13)) < RNG.random()
        rle = encode_mask(mask)
        assert segmentation_to_rle(dict(rle), 9, 13) == rle


class Payload:
    """What a hostile pickle does when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("__import__('pathlib').Path('opened').touch()",))


def adapter_state(**more: Any) -> dict[str, Any]:
    from anyregion.regionspot.adapter import Adapter, AdapterConfig

    config = AdapterConfig(token_width=16, feature_width=32, embed_width=24, heads=4)
    return {"model": {f"model.{n}": t for n, t in Adapter(config).state_dict().items()} | more}


def saved(content: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


def misshapen() -> bytes:
    import torch

    return saved(adapter_state(**{"model.projector.bias": torch.ones(3)}))


def script() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


REFUSED_CHECKPOINTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "pickled code among tensors": (
        lambda: saved(adapter_state(**{"model.to_clip.weight": Payload()})),
        "could run code",
    ),
    "pickled code alone": (lambda: pickle.dumps(Payload()), "could run code"),
    "truncated": (lambda: saved(adapter_state())[:-500], "broken or truncated"),
    "zero bytes": (lambda: b"", "broken or truncated"),
    "text": (lambda: b"not a checkpoint", "could run code|broken or truncated"),
    "another zip": (zipped, "broken or truncated"),
    "TorchScript": (script, "TorchScript"),
    "a list": (lambda: saved([1, 2]), "holds a list"),
    "no tensors": (lambda: saved({"model": {"a": 1}}), "no named tensors"),
    "another layout": (lambda: saved({"model": {"w": saved_tensor()}}), "not RegionSpot's layout"),
    "unknown part": (
        lambda: saved(adapter_state(**{"model.teacher.weight": saved_tensor()})),
        "teacher",
    ),
    "other sizes": (misshapen, r"projector\.bias is \(3,\), not \(24,\)"),
}


def saved_tensor() -> Any:
    import torch

    return torch.ones(2)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("case", REFUSED_CHECKPOINTS)
def test_checkpoint_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from anyregion.regionspot.checkpoint import convert_checkpoint

    monkeypatch.chdir(tmp_path)
    content, reason = REFUSED_CHECKPOINTS[case]
    path = tmp_path / "model.pth"
    path.write_bytes(content())
    with pytest.raises(CheckpointError, match=reason) as caught:
        convert_checkpoint(path, tmp_path / "out", vlm="some/clip")
    assert "model.pth" in str(caught.value)
    assert not (tmp_path / "opened").exists()  # nothing of it ran
    assert not (tmp_path / "out").exists()  # and nothing was written
