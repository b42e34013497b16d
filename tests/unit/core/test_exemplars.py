"""Names that stand for pictures: the rows, files of exemplars, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anyregion import EncodedVocabulary, InputError, Recognizer, Regions, Vocabulary
from anyregion.exemplars import Exemplar, ExemplarVocabulary, mix_rows
from anyregion.images import read_image
from anyregion.io.exemplars import load_exemplars
from tests.helpers.colours import ColourEncoder, ColourWords, colour_recognizer
from tests.helpers.halves import picture

LEFT = Regions.from_boxes([[0, 0, 20, 30]])
RIGHT = Regions.from_boxes([[20, 0, 40, 30]])
BOTH = Regions.from_boxes([[0, 0, 20, 30], [20, 0, 40, 30]])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return picture(tmp_path / "photo.png", "red", "blue")


def unit(rows: object) -> np.ndarray:
    values = np.asarray(rows, dtype=np.float64)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


RED, BLUE, LIME = ColourWords().encode_text(["red", "blue", "lime"])


# ---------------------------------------------------------------- rows


def test_a_row_is_the_mean_of_its_regions(photo: Path, tmp_path: Path) -> None:
    lime = picture(tmp_path / "lime.png", "lime", "lime")
    shown = {
        "warm": [Exemplar(photo, LEFT)],
        "all": [Exemplar(photo, BOTH), Exemplar(lime)],
    }
    encoded = colour_recognizer().encode_exemplars(shown)
    assert encoded.vocabulary.names == ("warm", "all")
    mean = unit(unit([RED, BLUE, LIME]).mean(axis=0))
    np.testing.assert_allclose(encoded.matrix, [unit(RED), mean], atol=1e-6)
    assert encoded.matrix.dtype == np.float32
    named = colour_recognizer().recognize([photo], [BOTH], encoded)[0]
    assert named.labels[0] == "warm"


def test_a_name_with_words_is_the_weighted_sum(photo: Path) -> None:
    recognizer = colour_recognizer()
    shown = {"Lime": [Exemplar(photo, LEFT)], "sky": [Exemplar(photo, RIGHT)]}
    encoded = recognizer.encode_exemplars(shown, words=["white", "lime"], weight=0.25)
    assert encoded.vocabulary.names == ("white", "lime", "sky")
    white = ColourWords().encode_text(["white"])[0]
    expected = [unit(white), unit(0.25 * unit(RED) + 0.75 * unit(LIME)), unit(BLUE)]
    np.testing.assert_allclose(encoded.matrix, expected, atol=1e-6)
    words = recognizer.encode_vocabulary(["white", "lime"])
    assert (encoded.matrix[0] == words.matrix[0]).all(), "words alone stay as they are"
    again = recognizer.encode_exemplars(shown, words=words, weight=0.25)
    assert (again.matrix == encoded.matrix).all()


def test_the_more_regions_the_less_its_words_count(photo: Path) -> None:
    shown = {"lime": [Exemplar(photo, LEFT)], "white": [Exemplar(photo, LEFT)] * 5}
    encoded = colour_recognizer().encode_exemplars(shown, words=["lime", "white"])
    white = unit(ColourWords().encode_text(["white"])[0])
    expected = [unit(0.5 * unit(RED) + 0.5 * unit(LIME)), unit(0.7 * unit(RED) + 0.3 * white)]
    np.testing.assert_allclose(encoded.matrix, expected, atol=1e-6)


@pytest.mark.parametrize(("weight", "row"), [(0.0, LIME), (1.0, RED)])
def test_the_ends_of_the_weight(photo: Path, weight: float, row: np.ndarray) -> None:
    shown = {"lime": [Exemplar(photo, LEFT)]}
    encoded = colour_recognizer().encode_exemplars(shown, words=["lime"], weight=weight)
    np.testing.assert_allclose(encoded.matrix[0], unit(row), atol=1e-6)


def test_words_that_nobody_can_read_may_be_shown(photo: Path) -> None:
    shown = {"zzz": [Exemplar(photo, LEFT)]}
    encoded = colour_recognizer().encode_exemplars(shown, words=["zzz", "xxx"], weight=1)
    assert encoded.unreadable == ("xxx",)


def test_an_image_is_encoded_once_however_often_it_shows(photo: Path, tmp_path: Path) -> None:
    encoder = ColourEncoder()
    other = picture(tmp_path / "other.png", "lime", "white")
    shown = {"a": [Exemplar(photo, LEFT), Exemplar(other, LEFT)], "b": [Exemplar(str(photo))]}
    calls: list[tuple[int, int]] = []
    pictured = ExemplarVocabulary.from_exemplars(shown)
    recognizer = Recognizer(encoder, cache=None)
    first = recognizer.encode_vocabulary(pictured, progress=lambda *n: calls.append(n))
    assert encoder.images_encoded == 2
    assert calls == [(2, 2)]
    assert recognizer.encode_vocabulary(pictured) is first
    assert encoder.images_encoded == 2


def test_batches_and_kinds_of_images_change_nothing(photo: Path) -> None:
    pixels = read_image(photo)
    recognizer = colour_recognizer()
    results = []
    for image in (photo, str(photo), photo.read_bytes(), pixels):
        pictured = ExemplarVocabulary.from_exemplars(
            {"a": [Exemplar(image, BOTH)], "b": [Exemplar(pixels.copy(), LEFT)]}
        )
        for size in (1, 8):
            rows = pictured.rows(recognizer.embed, batch_size=size)
            results.append(np.stack([rows[0], rows[1]]))
    assert all((r == results[0]).all() for r in results)


def test_masks_and_points_are_regions_too(photo: Path) -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[:, 25:30] = True
    shown = {
        "mask": [Exemplar(photo, Regions.from_prompts(masks=[mask]))],
        "point": [Exemplar(photo, Regions.from_prompts(points=[[[3, 15]]]))],
    }
    rows = colour_recognizer().encode_exemplars(shown).matrix
    np.testing.assert_allclose(rows[0], unit(BLUE), atol=1e-6)
    assert rows[1] @ unit(RED) > 0.9


def test_mixed_by_hand() -> None:
    words = np.float32([[1, 0], [0, 1]])
    rows = mix_rows(words, {1: np.float32([1, 0]), 2: np.float32([0, -1])}, 0.5)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rows, [[1, 0], [half, half], [0, -1]], atol=1e-6)
    with pytest.raises(InputError, match="pictures are 3 wide but words 2"):
        mix_rows(words, {0: np.float32([1, 0, 0])}, 0.5)


# ---------------------------------------------------------------- which model saw them


def test_pictures_of_another_model_are_refused(photo: Path, tmp_path: Path) -> None:
    encoded = colour_recognizer().encode_exemplars({"warm": [Exemplar(photo, LEFT)]})
    encoded.save(tmp_path / "shown.safetensors")
    loaded = EncodedVocabulary.load(tmp_path / "shown.safetensors")
    assert loaded.regions == encoded.regions == ColourEncoder().fingerprint
    assert (loaded.matrix == encoded.matrix).all()
    assert colour_recognizer().recognize([photo], [LEFT], loaded)[0].labels == ["warm"]
    sharper = ColourEncoder()
    sharper.logit_scale = 20.0  # the same words, other regions
    with pytest.raises(InputError, match="pictures of this vocabulary were seen by colours 10"):
        Recognizer(sharper, cache=None).recognize([photo], [LEFT], loaded)
    words = colour_recognizer().encode_vocabulary(["red"])
    assert words.regions is None
    assert Recognizer(sharper, cache=None).encode_vocabulary(words) is words


def test_files_from_before_there_were_pictures_are_read(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    words = colour_recognizer().encode_vocabulary(["red", "blue"])
    words.save(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="numpy") as file:
        about = json.loads(file.metadata()["anyregion_vocabulary"])
    del about["regions"], about["sha256"]
    save_file(
        {"matrix": words.matrix},
        tmp_path / "old.safetensors",
        metadata={"anyregion_vocabulary": json.dumps(about)},
    )
    assert EncodedVocabulary.load(tmp_path / "old.safetensors").regions is None


def test_the_digest_knows_pictures_regions_and_weight(photo: Path) -> None:
    def digest(regions: Regions | None, weight: float = 0.5, name: str = "a") -> str:
        shown = {name: [Exemplar(photo, regions)]}
        return ExemplarVocabulary.from_exemplars(shown, weight=weight).digest

    known = {digest(LEFT), digest(RIGHT), digest(None), digest(LEFT, 0.3)}
    assert len(known) == 4
    assert digest(LEFT) in known
    picture(photo, "red", "lime")
    assert digest(LEFT) not in known


def test_the_digest_knows_which_names_have_words(photo: Path) -> None:
    """Pictures alone, or pictures and words: the same names, other rows."""
    recognizer = colour_recognizer()
    words: list[Vocabulary | EncodedVocabulary | None] = [
        None, Vocabulary.from_names(["b"]), Vocabulary.from_names(["b", "a"]),
        recognizer.encode_vocabulary(["red", "lime", "blue"]),
    ]  # fmt: skip
    shown = {"b": [Exemplar(photo, LEFT)], "a": [Exemplar(photo, RIGHT)]}
    known = [ExemplarVocabulary.from_exemplars(shown, words=w) for w in words]
    assert [v.vocabulary.names for v in known[:3]] == [("b", "a")] * 3
    assert len({v.digest for v in known}) == 4


# ---------------------------------------------------------------- what is refused


def test_what_cannot_be_used_is_named(photo: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"bad")
    outside = Regions.from_boxes([[100, 0, 120, 30]])
    nothing = Regions.from_boxes([])
    cases: list[tuple[dict[str, list[Exemplar]], str]] = [
        ({}, "no exemplars"),
        ({"a": []}, "'a' has no exemplar"),
        ({"a": [Exemplar(photo, nothing)]}, "'a' has no exemplar"),
        ({"a": [Exemplar(photo)], "A": [Exemplar(photo)]}, "'A' repeats 'a'"),
        ({" ": [Exemplar(photo)]}, "empty"),
        ({"a": [Exemplar(photo), Exemplar(bad)]}, r"exemplar 2 of 'a' \(.*bad.png\).*not an image"),
        (
            {"a": [Exemplar(photo, outside)]},
            r"exemplar 1 of 'a' \(.*photo.png\): region 0.*outside",
        ),
        ({"a": [Exemplar(tmp_path / "gone.png")]}, "no such file"),
    ]
    for shown, message in cases:
        with pytest.raises(InputError, match=message):
            colour_recognizer().encode_exemplars(shown)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            colour_recognizer().encode_exemplars({"a": [Exemplar(photo)]}, weight=weight)
    with pytest.raises(InputError, match=r"gone\.png"):
        _ = ExemplarVocabulary.from_exemplars({"a": [Exemplar(tmp_path / "gone.png")]}).digest


# ---------------------------------------------------------------- files


def coco(folder: Path) -> Path:
    for name, left, right in (("1", "red", "blue"), ("2", "red", "lime"), ("3", "red", "white")):
        picture(folder / "images" / f"{name}.png", left, right)
    rows = [
        (1, 1, 7, [0, 0, 20, 30], 0),
        (2, 1, 9, [20, 0, 20, 30], 0),
        (3, 2, 7, [0, 0, 20, 30], 0),
        (4, 3, 7, [0, 0, 20, 30], 0),
        (5, 3, 9, [0, 0, 40, 30], 1),  # a crowd
        (6, 3, 9, [5, 5, -3, 4], 0),
    ]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 30, "width": 40} for i in (1, 2, 3)
        ],
        "annotations": [
            {"id": i, "image_id": m, "category_id": c, "bbox": box, "iscrowd": crowd}
            for i, m, c, box, crowd in rows
        ],
        "categories": [{"id": i, "name": n} for i, n in ((7, "ruby"), (8, "moss"), (9, "sky"))],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file


def test_a_coco_file(tmp_path: Path) -> None:
    pictured = load_exemplars(coco(tmp_path), images=tmp_path / "images")
    assert pictured.vocabulary.names == ("ruby", "sky")
    assert pictured.vocabulary.ids == (7, 9)
    assert [len(pictured.exemplars[i]) for i in (0, 1)] == [3, 1]
    assert {a.item for a in pictured.set_aside} == {"3.png, region 6", "class 'moss'"}
    encoded = colour_recognizer().encode_vocabulary(pictured)
    np.testing.assert_allclose(encoded.matrix, [unit(RED), unit(BLUE)], atol=1e-6)


def test_ids_and_words_beside_a_coco_file(tmp_path: Path) -> None:
    words = Vocabulary.from_names(["sky", "moss"], ids=[7, 3])
    pictured = load_exemplars(coco(tmp_path), images=tmp_path / "images", words=words)
    assert pictured.vocabulary.names == ("sky", "moss", "ruby")
    assert pictured.vocabulary.ids == (7, 3, 8), "7 is taken"


def test_shots_are_drawn_by_seed_and_class(tmp_path: Path) -> None:
    file = coco(tmp_path)

    def shown(seed: int, shots: int | None = 2) -> list[str]:
        pictured = load_exemplars(file, images=tmp_path / "images", shots=shots, seed=seed)
        assert len(pictured.exemplars[1]) == 1, "fewer than K are all taken"
        return [e.source for e in pictured.exemplars[0]]

    draws = [shown(seed) for seed in range(12)]
    assert all(len(set(d)) == 2 for d in draws)
    assert len(set(map(tuple, draws))) == 3, "each pair comes"
    assert draws == [shown(seed) for seed in range(12)]
    assert len(shown(0, None)) == len(shown(0, 3)) == 3


def test_a_folder_of_folders(tmp_path: Path) -> None:
    picture(tmp_path / "ruby" / "b.png", "red", "red")
    picture(tmp_path / "ruby" / "a.jpg", "red", "red")
    picture(tmp_path / "left bracket" / "deep" / "c.png", "blue", "blue")
    (tmp_path / "ruby" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    pictured = load_exemplars(tmp_path)
    assert pictured.vocabulary.names == ("left bracket", "ruby")
    assert [Path(e.source).name for e in pictured.exemplars[1]] == ["a.jpg", "b.png"]
    assert [str(a) for a in pictured.set_aside] == ["class 'empty': no example of it"]
    matrix = colour_recognizer().encode_vocabulary(pictured).matrix
    np.testing.assert_allclose(matrix[0], unit(BLUE), atol=1e-6)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "hollow" / "class").mkdir(parents=True)
    detections = tmp_path / "detections.json"
    detections.write_text(json.dumps({"1.png": {"boxes": [[0, 0, 3, 3]]}}))
    cases = [
        (tmp_path / "nowhere", {}, "no such folder or file"),
        (tmp_path / "bare", {}, "each class needs a folder"),
        (tmp_path / "hollow", {}, "no class has an example.*'class'"),
        (detections, {}, "no categories"),
        (coco(tmp_path), {}, r"an exemplar of 'ruby': .*1\.png: no such file"),
        (tmp_path / "hollow", {"shots": 0}, "shots must be at least 1"),
        (tmp_path / "hollow", {"seed": -1}, "seed must not be negative"),
        (tmp_path / "hollow", {"images": tmp_path}, "leave the images' folder out"),
    ]
    for source, options, message in cases:
        with pytest.raises(InputError, match=message):
            load_exemplars(source, **options)  # type: ignore[arg-type]
