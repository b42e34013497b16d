"""The back end of Label Studio learns what annotations say."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from anyregion.recognizer import Recognizer
from anyregion.serve.client import Client
from anyregion.teaching.vocabulary import TaughtVocabulary
from tests.helpers.label_studio import RECORDED, UNTAUGHT, FakeLabelStudio, post, predict, recorded
from tests.unit.serve.conftest import place, serving

NAME = "label-studio-" + RECORDED["predict"]["project"].replace(".", "-")


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it was not learnt"
        time.sleep(0.02)
    return result


def version(url: str) -> str:
    stated: str = post(url, "setup", recorded("setup"))["model_version"]
    return stated


def learn(url: str, body: Any) -> str:
    """Send a webhook, and wait until it is learnt; the new version."""
    before = version(url)
    assert post(url, "webhook", body) == {"status": "noted"}
    return str(wait_for(lambda: (now := version(url)) != before and now))


def taught(folder: Path) -> TaughtVocabulary:
    return TaughtVocabulary.load(folder / f"{NAME}.vocab")


def labels_of(folder: Path) -> dict[str, str | None]:
    """The labels by the regions' ids."""
    vocabulary = taught(folder)
    corrections = vocabulary.corrections
    if corrections is None:
        return {}
    names = [*vocabulary.vocabulary.names, None]
    return {
        str(i).rsplit("/", 1)[1]: names[label]
        for i, label in zip(corrections.ids, corrections.labels.tolist(), strict=True)
    }


def test_annotations_teach(compact: Recognizer, studio: FakeLabelStudio, tmp_path: Path) -> None:
    with serving(compact, label_studio=place(studio), folder=tmp_path) as url:
        before = predict(url)[0]
        first = learn(url, recorded("ANNOTATION_CREATED"))
        assert first.startswith("anyregion-2")
        assert labels_of(tmp_path) == {
            "qBox": "ball", "qTurned": "sky", "qPoly": "ball", "qBrush": "ball", "qPoint": "ball",
        }  # fmt: skip
        assert taught(tmp_path).vocabulary.names == ("ball", "box", "sky")
        learn(url, recorded("ANNOTATION_UPDATED"))  # one is named anew, one is gone
        assert labels_of(tmp_path) == {
            "qBox": "box", "qTurned": "sky", "qPoly": "ball", "qBrush": "ball",
        }  # fmt: skip
        after = predict(url)[0]
        assert after["model_version"] == version(url)
        scores = [{r["id"]: r["score"] for r in answer["result"]} for answer in (before, after)]
        assert scores[0] != scores[1], "answers change"
        moved = recorded("ANNOTATION_UPDATED")
        moved["annotation"]["result"][0]["value"]["x"] = 40
        learn(url, moved)
        assert len(taught(tmp_path).corrections or ()) == 4, "the old place is forgotten"
    # another process goes on
    with serving(compact, label_studio=place(studio), folder=tmp_path) as url:
        assert version(url) != UNTAUGHT
        cancelled = recorded("ANNOTATION_UPDATED")
        cancelled["annotation"]["was_cancelled"] = True
        learn(url, cancelled)
        assert labels_of(tmp_path) == {}
        learn(url, recorded("ANNOTATION_CREATED"))
        assert len(labels_of(tmp_path)) == 5
        learn(url, recorded("ANNOTATIONS_DELETED"))
        assert labels_of(tmp_path) == {}
        assert predict(url)[0]["result"]


def test_labels_follow_the_labelling_interface(
    compact: Recognizer, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    with serving(compact, label_studio=place(studio), folder=tmp_path) as url:
        learn(url, recorded("ANNOTATION_CREATED"))
        learn(url, recorded("PROJECT_UPDATED"))  # `sky` is `floor` now
        assert taught(tmp_path).vocabulary.names == ("ball", "box", "floor")
        assert set(labels_of(tmp_path)) == {"qBox", "qPoly", "qBrush", "qPoint"}
        # without a webhook the next question tells
        post(url, "predict", recorded("predict"))
        assert taught(tmp_path).vocabulary.names == ("ball", "box", "sky")


def test_deleted_tasks_and_several_annotations_at_once(
    compact: Recognizer, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    with serving(compact, label_studio=place(studio), folder=tmp_path) as url:
        created = recorded("ANNOTATION_CREATED")
        other_task = recorded("TASKS_DELETED")["tasks"][0]["id"]
        data = recorded("predict")["tasks"][1]["data"]
        second = copy.deepcopy(created["annotation"]) | {"id": 77, "task": other_task}
        body = {
            **created,
            "action": "ANNOTATIONS_CREATED",
            "annotation": [created["annotation"], second],
            "task": [created["task"], {**created["task"], "id": other_task, "data": data}],
        }
        learn(url, body)
        corrections = taught(tmp_path).corrections
        assert corrections is not None
        assert (len(corrections), len(corrections.images)) == (10, 2)
        learn(url, recorded("TASKS_DELETED"))
        corrections = taught(tmp_path).corrections
        assert corrections is not None
        assert len(corrections) == 5


def test_start_training_learns_all_that_is_there_and_forgets_all_else(
    compact: Recognizer, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    with serving(compact, label_studio=place(studio), folder=tmp_path) as url:
        gone = recorded("ANNOTATION_CREATED")
        gone["annotation"]["id"] = 99
        learn(url, gone)
        assert len(labels_of(tmp_path)) == 5
        studio.export = recorded("export")
        learn(url, recorded("START_TRAINING"))
        assert labels_of(tmp_path) == {
            "qBox": "box", "qTurned": "sky", "qPoly": "ball", "qBrush": "ball",
        }  # fmt: skip
        number = recorded("START_TRAINING")["project"]["id"]
        paths = [path for _, path, _ in studio.requests]
        assert f"/api/projects/{number}/export?exportType=JSON" in paths


def test_none_of_these_is_taught_by_a_label_of_that_name(
    compact: Recognizer, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    with serving(compact, label_studio=place(studio), folder=tmp_path) as url:
        body = recorded("ANNOTATION_CREATED")
        body["project"]["label_config"] = body["project"]["label_config"].replace(
            '<Label value="box" pred', '<Label value="None of these"/><Label value="box" pred'
        )
        body["annotation"]["result"][0]["value"]["rectanglelabels"] = ["None of these"]
        learn(url, body)
        assert labels_of(tmp_path)["qBox"] is None
        assert taught(tmp_path).vocabulary.names == ("ball", "box", "sky")


def test_a_kept_vocabulary_answers_and_is_taught(
    compact: Recognizer, studio: FakeLabelStudio, tmp_path: Path
) -> None:

    with (
        serving(compact, label_studio=place(studio), folder=tmp_path) as url,
        Client(url) as client,
    ):
        client.make_vocabulary("mine", ["ball", "box", "sky", "a red hat"])
        body = recorded("ANNOTATION_CREATED")
        config = body["project"]["label_config"].replace(
            'name="box" toName', 'model_vocabulary="mine" name="box" toName'
        )
        body["project"]["label_config"] = config
        post(url, "webhook", body)
        wait_for(lambda: client.vocabulary("mine")["corrections"] == 5)
        assert client.vocabulary("mine")["names"] == ["ball", "box", "sky", "a red hat"]
        assert not (tmp_path / f"{NAME}.vocab").exists()
        (answer, _) = predict(url, recorded("predict") | {"label_config": config})
        assert answer["model_version"] != UNTAUGHT


def test_an_annotation_that_cannot_be_learnt_stops_no_other(
    compact: Recognizer, studio: FakeLabelStudio, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(compact, label_studio=place(studio), folder=tmp_path) as url:
        lost = recorded("ANNOTATION_CREATED")
        lost["annotation"]["id"], lost["task"]["data"]["image"] = 98, "/data/upload/9/gone.jpg"
        with caplog.at_level(logging.WARNING, "anyregion.serve"):
            learn(url, lost)
        assert "answers 404" in caplog.text
        learn(url, recorded("ANNOTATION_CREATED"))
        assert len(labels_of(tmp_path)) == 5
