"""The auto-annotation functions, through cvat-sdk's own driver and mapper."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cvat_sdk")

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from cvat_sdk.masks import decode_mask

from anyregion import factory
from anyregion.errors import InputError
from anyregion.integrations.cvat import (
    CvatFunctionOptions,
    DetectionFunction,
    InteractionFunction,
    create,
)
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from tests.helpers.fake_cvat import TOKEN, FakeCvat, attribute, label
from tests.unit.integrations.conftest import PHOTOS

NAMES = ["cat", "cup", "person"]


@pytest.fixture(autouse=True)
def loaded_once(compact: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`create` takes the model of the session: it is the one that it would load."""
    monkeypatch.setattr(factory, "load_recognizer", lambda *_, **__: compact)


def client(fake: FakeCvat, tmp_path: Path) -> Client:
    made = Client(fake.url, config=Config(cache_dir=tmp_path), check_server_version=False)
    made.login(AccessTokenCredentials(TOKEN))
    return made


def annotate(fake: FakeCvat, tmp_path: Path, function: Any, **options: Any) -> list[dict[str, Any]]:
    """Shapes that the driver has written."""
    cvataa.annotate_task(client(fake, tmp_path), 7, function, **options)
    (patch,) = fake.patches
    assert patch["query"] == {"action": "create"}
    shapes: list[dict[str, Any]] = patch["body"]["shapes"]
    return shapes


def test_the_driver_writes_what_is_found(
    cvat: FakeCvat, compact: Recognizer, tmp_path: Path
) -> None:
    function = create(vocabulary="cat, cup, person")
    shapes = annotate(cvat, tmp_path, function)
    assert {s["type"] for s in shapes} == {"rectangle"}
    assert {s["source"] for s in shapes} == {"auto"}
    assert {s["frame"] for s in shapes} == {0, 1}
    ids = {entry["name"]: entry["id"] for entry in cvat.labels}
    assert {s["label_id"] for s in shapes} <= {ids[name] for name in NAMES}
    for frame, photo in enumerate(PHOTOS):
        boxes = np.array([s["points"] for s in shapes if s["frame"] == frame])
        with Image.open(photo) as image:
            assert (boxes >= 0).all()
            assert (boxes <= np.tile(image.size, 2)).all()
    # the same regions and names as `recognize --regions auto` has
    proposer = factory.load_proposer(recognizer=compact)
    from anyregion.images import read_image

    regions = proposer.propose(read_image(PHOTOS[0]))
    (expected,) = compact.recognize([PHOTOS[0]], [regions], NAMES)
    corners = {tuple(np.round(box, 2)) for box in expected.boxes}
    drawn = {tuple(np.round(s["points"], 2)) for s in shapes if s["frame"] == 0}
    assert drawn
    assert drawn <= corners


@pytest.mark.parametrize("shapes", ["mask", "polygon"])
def test_masks_and_outlines(shapes: str, cvat: FakeCvat, tmp_path: Path) -> None:
    function = create(vocabulary="cat, cup, person", shapes=shapes, most=4)
    drawn = annotate(cvat, tmp_path, function)
    assert drawn
    assert {s["type"] for s in drawn} == {shapes}
    for shape in drawn:
        if shapes == "polygon":
            assert len(shape["points"]) >= 6
            assert len(shape["points"]) % 2 == 0
        else:
            height, width = cvat.sizes[shape["frame"]]
            mask = decode_mask(shape["points"], image_width=width, image_height=height)
            assert mask.any()


def test_masks_become_polygons_where_the_driver_says_so(cvat: FakeCvat, tmp_path: Path) -> None:
    function = create(vocabulary="cat, cup, person", shapes="mask", most=2)
    drawn = annotate(cvat, tmp_path, function, conv_mask_to_poly=True)
    assert {s["type"] for s in drawn} == {"polygon"}


def test_the_threshold_of_the_driver(cvat: FakeCvat, tmp_path: Path) -> None:
    function = create(vocabulary="cat, cup, person")
    context = _Context("x.jpg", None)
    with Image.open(PHOTOS[0]) as image:
        image.load()
    everything = function.detect(context, image)  # type: ignore[arg-type, call-arg]
    most = function.detect(attrs.evolve(context, conf_threshold=0.3), image)  # type: ignore
    assert 0 < len(most) < len(everything)


def test_scores_in_an_attribute(cvat: FakeCvat, tmp_path: Path) -> None:
    cvat.labels[:] = [label(3, "cup", "any", attribute(31, "score", "text", []))]
    function = create(vocabulary="cup", score_attribute="score", most=2)
    for shape in annotate(cvat, tmp_path, function):
        (value,) = shape["attributes"]
        assert value["spec_id"] == 31
        assert 0 <= float(value["value"]) <= 1


def test_the_labels_of_a_task_are_its_names(cvat: FakeCvat, tmp_path: Path) -> None:
    function = create(task=7, server=cvat.url, most=3)
    assert [entry.name for entry in function.spec.labels] == ["object", *NAMES]
    outlines = create(task=7, server=cvat.url, shapes="polygon")
    assert "outline only" in [entry.name for entry in outlines.spec.labels]
    # every label of the function is in the task, so that the driver needs no --allow-unmatched
    assert annotate(cvat, tmp_path, function)


def test_an_unmatched_label_is_the_drivers_to_refuse(cvat: FakeCvat, tmp_path: Path) -> None:
    function = create(vocabulary="cat, dragon", most=2)
    with pytest.raises(cvataa.BadFunctionError, match="dragon"):
        annotate(cvat, tmp_path, function)
    annotate(cvat, tmp_path, function, allow_unmatched_labels=True)


def test_what_a_taught_vocabulary_refuses_is_left_out(compact: Recognizer) -> None:
    from anyregion.teaching.teacher import Teacher

    with Image.open(PHOTOS[0]) as image:
        image.load()
    plain = DetectionFunction(compact, NAMES, CvatFunctionOptions(most=4))
    drawn = plain.detect(_Context("x.jpg", None), image)  # type: ignore[arg-type]
    teacher = Teacher(compact, NAMES)
    boxes = Regions.from_boxes([shape.points for shape in drawn])
    # none of these is any of the names
    teacher.add(PHOTOS[0], boxes, [None] * len(boxes))
    taught = DetectionFunction(compact, teacher.vocabulary(), CvatFunctionOptions(most=4))
    assert [entry.name for entry in taught.spec.labels] == NAMES
    left = taught.detect(_Context("x.jpg", None), image)  # type: ignore[arg-type]
    assert len(left) < len(drawn)


def test_a_broken_image_does_not_cost_the_others(
    compact: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    function = DetectionFunction(compact, NAMES)
    with caplog.at_level(logging.WARNING, "anyregion.cvat"):
        assert function.detect(_Context("broken.jpg", None), b"no image") == []  # type: ignore
    assert "broken.jpg" in caplog.text


PARAMETERS = {
    "neither names nor task": ({}, "give the names"),
    "both": ({"vocabulary": "cat", "task": 7}, "not both"),
    "unknown": ({"vocabulary": "cat", "conf": 1}, "no parameter 'conf'"),
    "kind": ({"kind": "tracking"}, "detection, interaction"),
    "shapes": ({"vocabulary": "cat", "shapes": "boxes"}, "rectangle, polygon, mask"),
    "no names": ({"vocabulary": ","}, "empty"),
}


@pytest.mark.parametrize("case", sorted(PARAMETERS))
def test_parameters_that_make_no_sense(case: str) -> None:
    parameters, text = PARAMETERS[case]
    with pytest.raises(InputError, match=text):
        create(**parameters)


def test_a_task_without_fitting_labels(cvat: FakeCvat) -> None:
    cvat.labels[:] = [label(5, "outline only", "polygon")]
    with pytest.raises(InputError, match="no label of it can be a rectangle"):
        create(task=7, server=cvat.url)


@attrs.frozen
class _Context(cvataa.DetectionFunctionContext):
    frame_name: str
    conf_threshold: float | None
    conv_mask_to_poly: bool = False


@attrs.frozen(kw_only=True)
class _Prompts(cvataa.InteractionPrompts):
    pos_points: tuple[tuple[float, float], ...] = ()
    neg_points: tuple[tuple[float, float], ...] = ()
    bounding_box: tuple[tuple[float, float], tuple[float, float]] | None = None


class _InteractionContext(cvataa.InteractionFunctionContext):
    pass


@pytest.fixture(scope="module")
def outlined(compact: Recognizer) -> Any:
    function = InteractionFunction(compact)
    with Image.open(PHOTOS[0]) as image:
        return function, function.preprocess_image(_InteractionContext(), image)


PROMPTS = {
    "a box": _Prompts(bounding_box=((60.0, 20.0), (300.0, 420.0))),
    "a point": _Prompts(pos_points=((200.0, 150.0),)),
    "points of both kinds": _Prompts(pos_points=((200.0, 150.0),), neg_points=((5.0, 5.0),)),
    "a point in a box": _Prompts(
        pos_points=((200.0, 150.0),), bounding_box=((60.0, 20.0), (300.0, 420.0))
    ),
    "a point on the border": _Prompts(pos_points=((0.0, 512.0),)),
}


@pytest.mark.parametrize("case", sorted(PROMPTS))
def test_prompts_become_the_masks_of_the_recogniser(
    case: str, outlined: Any, compact: Recognizer
) -> None:
    function, image = outlined
    prompts = PROMPTS[case]
    (shape,) = function.detect(_InteractionContext(), image, prompts)
    assert shape.type == "mask"
    height, width = image.size
    mask = decode_mask(shape.points, image_width=width, image_height=height)
    points = np.reshape([*prompts.pos_points, *prompts.neg_points], (-1, 2))
    points = np.minimum(points, [width - 1e-9, height - 1e-9])
    labels = [1] * len(prompts.pos_points) + [0] * len(prompts.neg_points)
    box = prompts.bounding_box
    regions = Regions.from_prompts(
        boxes=[[np.nan] * 4 if box is None else np.ravel(box)],
        points=[points if len(labels) else None],
        point_labels=[labels if len(labels) else None],
    )
    (expected,) = compact.recognize([PHOTOS[0]], [regions], NAMES, masks=True)
    from anyregion.masks import decode_mask as decode_rle

    assert expected.masks is not None
    assert np.array_equal(mask, decode_rle(expected.masks[0]))
    for value in shape.attributes:
        assert 0 <= float(value.value) <= 1


NOTHING = {
    "no prompt": _Prompts(),
    "outside alone": _Prompts(neg_points=((9.0, 9.0),)),
    "a box without an area": _Prompts(bounding_box=((9.0, 9.0), (9.0, 40.0))),
    "a box outside": _Prompts(bounding_box=((900.0, 900.0), (990.0, 990.0))),
}


@pytest.mark.parametrize("case", sorted(NOTHING))
def test_prompts_that_show_nothing(case: str, outlined: Any) -> None:
    function, image = outlined
    assert function.detect(_InteractionContext(), image, NOTHING[case]) == []


def test_the_module_is_what_cvat_cli_loads() -> None:
    module = importlib.import_module("anyregion.integrations.cvat")
    # as `FunctionLoader.load` of cvat-cli 2.80 does
    assert hasattr(module, "create")
    function = module.create(kind="interaction")
    assert isinstance(function.spec, cvataa.InteractionFunctionSpec)
    assert hasattr(function, "preprocess_image")
    detection = module.create(vocabulary="cat")
    assert isinstance(detection.spec, cvataa.DetectionFunctionSpec)
