"""Another backbone as `compact`'s image encoder, from a pretraining's folder to a model."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("timm")

import torch

from anyregion import Regions, factory
from anyregion.backbones.dense import load_weighted_encoder
from anyregion.backbones.loading import save_encoder
from anyregion.backbones.stages import maps_along
from anyregion.compact.assets import IMAGE_ENCODER
from anyregion.compact.image_encoder import network_input
from anyregion.compact.model import CompactModel
from anyregion.compact.training.dataset import StoreConfig
from anyregion.compact.training.export import FixedPadding, MapsGraph, export_image_encoder
from anyregion.compact.training.keeping_task import build
from anyregion.compact.training.region_config import RegionTaskConfig
from anyregion.compact.training.region_head_module import RegionHeadConfig
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.store.store import Store, create_store
from anyregion.errors import InputError
from anyregion.images import read_image
from anyregion.training.config import LoopConfig
from tests.helpers.halves import annotate

BACKBONE = "timm/test_efficientnet@random"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a work place: a run's backbone, a store that nothing was computed for, and the
    model of a head that was not trained yet, on the backbone's features."""
    place = tmp_path_factory.mktemp("encoders")
    save_encoder(load_weighted_encoder(BACKBONE), place / "run" / "model")
    annotations = read_annotations(annotate(place))
    create_store(
        place / "store",
        annotations,
        factory.load_extractor("compact"),
        mirrored=False,
        notes={"images": str(place / "photos")},
    )
    task = build(settings(place), loop=LoopConfig(steps=1))
    task.save(task.module, place / "model")
    return place


def settings(place: Path, where: str = "run") -> RegionTaskConfig:
    store = StoreConfig(str(place / "store"))
    return RegionTaskConfig(
        data=(store,),
        validation=store,
        flip=0.0,
        module=RegionHeadConfig(width=16, layers=1, heads=2),
        image_encoder=str(place / where),
    )


def test_graph_equals_torch(trained: Path) -> None:
    (graph,) = trained.glob(f"image-encoder-*/{IMAGE_ENCODER}")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 103, 3), dtype=np.uint8)
    pyramid = CompactModel(graph.parent, threads=1).image_encoder.encode(pixels)
    assert pyramid.frame is not None
    frame = torch.from_numpy(network_input(pyramid.frame))
    with torch.no_grad():
        maps = MapsGraph(load_weighted_encoder(BACKBONE)).eval()(frame)
    for (name, cells), expected in zip(pyramid.maps.items(), maps, strict=True):
        np.testing.assert_allclose(
            cells, expected[0].permute(1, 2, 0).numpy(), atol=1e-5, err_msg=name
        )
    # what the graph sees is what the backbone is used to
    encoder = load_weighted_encoder(BACKBONE).eval()
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    with torch.no_grad():
        last = encoder(((frame * 128 + 127) / 255 - mean) / deviation)
    np.testing.assert_allclose(maps[3].numpy(), last.numpy(), atol=1e-4)


def test_features_are_computed_beside_the_store(trained: Path) -> None:
    (folder,) = trained.glob("store-*")
    store = Store(folder)
    assert len(store.usable()) == len(store.annotations)
    assert store.read(0)["stride8"].shape[2] == 32
    # a second training computes nothing again
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    build(settings(trained), loop=LoopConfig(steps=1))
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_the_folder_is_a_model_like_any_other(trained: Path) -> None:
    recognizer = factory.load_recognizer(trained / "model", cache=None)
    image = read_image(trained / "photos" / "1.png")
    regions = Regions.from_prompts(
        boxes=[[0, 0, 20, 30], [np.nan] * 4], points=[None, [[30.0, 15.0]]]
    )
    recognizer.set_image(image)
    answers = recognizer.predict(regions, ["red", "blue"], masks=True)
    assert len(answers) == 2
    assert np.isfinite(answers.scores).all()
    assert answers.masks is not None
    assert answers.masks[0]["size"] == [30, 40]
    assert recognizer.encoder.fingerprint != factory.load_recognizer(cache=None).encoder.fingerprint
    # regions are found by the built-in heads, whatever names them
    built_in = factory.load_proposer("compact").propose(image)
    proposer = factory.load_proposer("own", recognizer=recognizer)
    assert proposer.propose(image).boxes.tolist() == built_in.boxes.tolist()
    # its copy answers alike, and trainings can begin at its encoder
    recognizer.save_pretrained(trained / "copy")
    copy = factory.load_recognizer(trained / "copy", cache=None)
    copy.set_image(image)
    again = copy.predict(regions, ["red", "blue"])
    assert again.scores.tolist() == answers.scores.tolist()
    task = build(settings(trained, where="copy"), loop=LoopConfig(steps=1))
    assert task.config.module.channels == (32, 48, 64, 256)
    assert task.encoder == trained / "copy" / IMAGE_ENCODER


def test_steps_of_a_training(trained: Path) -> None:
    task = build(settings(trained), loop=LoopConfig(steps=1))
    examples = [task.load(item) for item in task.plan(0)]
    losses = task.losses(task.module, examples)
    losses["loss"].mean().backward()
    assert torch.isfinite(losses["loss"]).all()
    assert task.config.objective.distillation == 0
    assert 0 <= task.validate(task.module)["top1"] <= 1


def test_what_cannot_be(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"with compact\.image_encoder set compact\.start to none"):
        replace(settings(trained), start="shipped")
    with pytest.raises(InputError, match="say which weights"):
        build(settings(trained, where="nowhere"), loop=LoopConfig(steps=1))
    vit = load_weighted_encoder("timm/test_vit@random")
    with pytest.raises(InputError, match="no maps of strides"):
        export_image_encoder(vit, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
    index = Store(trained / "store")
    create_store(
        tmp_path / "bare", index.annotations, factory.load_extractor("compact"), mirrored=False
    )
    bare = replace(settings(trained), data=(StoreConfig(str(tmp_path / "bare")),))
    with pytest.raises(InputError, match="does not say where its images lie"):
        build(bare, loop=LoopConfig(steps=1))


def test_paddings_of_tensorflow_are_those_of_the_convolutions() -> None:
    # kernels of 2 to 5, strides and dilations: on sides that a stride divides nothing changes
    layers = pytest.importorskip("timm.layers")
    for side, stride, dilation in product((2, 3, 5), (1, 2, 4), (1, 2)):
        conv = layers.Conv2dSame(3, 4, side, stride=stride, dilation=dilation)
        cells = torch.rand(1, 3, 32, 64)
        with torch.no_grad():
            assert FixedPadding(conv)(cells).equal(conv(cells))


def test_graph_of_a_network_with_paddings_of_tensorflow() -> None:
    encoder = load_weighted_encoder("timm/tf_efficientnet_lite0@random").eval()
    graph = MapsGraph(encoder)
    # the five strided convolutions; and the encoder itself stays as it is
    assert sum(isinstance(part, FixedPadding) for part in graph.modules()) == 5
    assert not any(isinstance(part, FixedPadding) for part in encoder.modules())
    pixels = torch.rand(1, 3, 64, 96)
    images = ((pixels * 128 + 127) / 255 - graph.mean) / graph.deviation
    with torch.no_grad():
        last, maps = maps_along(encoder, images, graph.parts)
        for map_, wanted in zip(graph(pixels), (*maps, last), strict=True):
            assert torch.allclose(map_, wanted, atol=1e-4)
