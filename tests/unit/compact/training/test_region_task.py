"""The region head: features, module, graph, folder, names, calibration, training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("lightning_fabric")

import torch

from anyregion.compact.assets import read_asset
from anyregion.compact.calibration import Calibration
from anyregion.compact.conse import load_conse
from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid
from anyregion.compact.model import CompactModel
from anyregion.compact.region_head import (
    INPUTS,
    RegionFeatures,
    RegionHead,
    extract_region_features,
    quarter,
)
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.compact.training import checkpoint
from anyregion.compact.training.checkpoint import save_region_head
from anyregion.compact.training.dataset import StoreConfig, open_named_dataset, read_pyramid
from anyregion.compact.training.export import rounded
from anyregion.compact.training.keeping_task import make_task
from anyregion.compact.training.losses import classification_loss, distillation_loss
from anyregion.compact.training.metrics import fit_scores
from anyregion.compact.training.region_config import RegionObjective, RegionTaskConfig
from anyregion.compact.training.region_head_module import RegionHeadConfig, RegionHeadModule
from anyregion.compact.training.region_task import RegionTask, sample_boxes
from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.mirror import mirror_boxes
from anyregion.errors import CheckpointError, InputError
from anyregion.evaluation.metrics.calibration import ece
from anyregion.model_card import ModelCard
from anyregion.torch_utils.weights import read_state_dict
from anyregion.training.config import LoopConfig, OptimizerConfig
from anyregion.training.loop import fit
from anyregion.vocabulary import Vocabulary, encode_vocabulary

SIZE = (96, 128)
SMALL = RegionHeadConfig(width=16, layers=1, heads=2, dropout=0.0)


def random_pyramid(seed: int, scale: int = 1) -> FeaturePyramid:
    """Random maps of an image whose long side is 128, times `scale`."""
    draw = np.random.default_rng(seed)
    strides = {"stride8": 8, "stride16": 16, "stride32": 32, "last": 32}
    maps = {
        name: draw.normal(size=(SIZE[0] // s, SIZE[1] // s, CHANNELS[name])).astype(np.float32)  # type: ignore[index]
        for name, s in strides.items()
    }
    size = (SIZE[0] * scale, SIZE[1] * scale)
    return FeaturePyramid(maps, (float(size[0]), float(size[1])), size)  # type: ignore[arg-type]


def random_features(count: int, seed: int = 0) -> RegionFeatures:
    draw = np.random.default_rng(seed)
    low = draw.uniform(0, 0.5, (count, 2)) * [SIZE[1], SIZE[0]]
    boxes = np.concatenate([low, low + draw.uniform(8, 40, (count, 2))], axis=1)
    return extract_region_features(random_pyramid(seed), boxes, load_conse())


def features_of(box: list[float], seed: int, scale: int = 1) -> RegionFeatures:
    pyramid = random_pyramid(seed, scale)
    return extract_region_features(pyramid, np.array([box], dtype=np.float64), load_conse())


def tensors(features: RegionFeatures) -> list[torch.Tensor]:
    return [torch.from_numpy(getattr(features, name)) for name in INPUTS]


def module(seed: int = 0) -> RegionHeadModule:
    torch.manual_seed(seed)
    head = RegionHeadModule(SMALL).eval()
    with torch.no_grad():  # as after some training: the learned part counts
        head.projector.weight.mul_(300)
    return head


def region_head(folder: Path) -> RegionHead:
    return CompactModel(folder, threads=1).region_head


def trained_module(folder: Path) -> RegionHeadModule:
    """The module from the weights that training goes on from."""
    content = json.loads((folder / "namer.json").read_text())
    head = RegionHeadModule(RegionHeadConfig(**content["module"]))
    weights = read_state_dict(folder / "namer_weights.safetensors")
    head.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return head.eval()


def calibration() -> Calibration:
    text_encoder = CompactTextEncoder(threads=1)
    return Calibration(
        text_encoder.encode_text(["a dog", "a cat"]), ("dog", "cat"), 0.13, 14.0, -6.0
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `module()`: its graph is exported once, which takes half a minute."""
    folder = tmp_path_factory.mktemp("region_head") / "model"
    save_region_head(
        module(), folder, calibration(), card=ModelCard(licence="Apache-2.0"), metrics={"top1": 0.5}
    )
    return folder


# features


@pytest.mark.parametrize(
    "change",
    [
        {"span": np.zeros(0, np.float32)},
        {"span": np.float32([0, 64])},
        {"span": np.float32([np.nan, 64])},
        {"last": np.zeros((0, 2, 1280), np.float16)},
        {"last": np.zeros((2, 2, 1279), np.float16)},
        {"stride8": np.full((8, 8, 40), np.inf, np.float16)},
        {"stride16": None},
    ],
    ids=str,
)
def test_features_that_are_no_maps_name_their_image(change: dict[str, Any]) -> None:
    pyramid = random_pyramid(0)
    features: dict[str, Any] = {**pyramid.maps, "span": np.float32(pyramid.span)}

    def dataset() -> Any:
        reader = SimpleNamespace(
            read=lambda image, flipped: features,
            annotations=SimpleNamespace(file_names=("a.jpg", "b.jpg")),
        )
        return SimpleNamespace(reader=reader, size=lambda image: pyramid.size)

    assert read_pyramid(dataset(), 1).span == pyramid.span
    features = {name: v for name, v in (features | change).items() if v is not None}
    with pytest.raises(InputError, match=r"b\.jpg: the store does not hold its maps"):
        read_pyramid(dataset(), 1)


def test_quarters_make_up_their_box() -> None:
    quarters, masks = quarter(np.array([[10.0, 20, 50, 80], [0, 0, 30, 10]]))
    assert masks is None
    assert quarters[:4].tolist() == [
        [10, 20, 30, 50], [30, 20, 50, 50], [10, 50, 30, 80], [30, 50, 50, 80],
    ]  # fmt: skip
    many, one = random_features(5), features_of([10, 20, 50, 80], seed=3)
    fine = random_pyramid(3).maps["stride8"]
    assert one.pooled.shape == (1, RegionHeadConfig().pooled)
    # the mean of the quarters is the mean over the box, here by cells of 8 pixels, partly covered
    rows = np.clip(np.minimum(80, np.arange(8, 104, 8)) - np.maximum(20, np.arange(0, 96, 8)), 0, 8)
    cols = np.clip(
        np.minimum(50, np.arange(8, 136, 8)) - np.maximum(10, np.arange(0, 128, 8)), 0, 8
    )
    mean = np.einsum("h,w,hwc->c", rows, cols, fine) / (rows.sum() * cols.sum())
    assert np.allclose(one.pooled[0, :160].reshape(4, 40).mean(axis=0), mean, atol=1e-5)
    assert many.memory.shape == (12, RegionHeadConfig().memory)
    assert np.allclose(np.linalg.norm(many.conse, axis=1), 1, atol=1e-5)


def test_a_mask_is_cut_into_quarters() -> None:
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:20, 10:40] = True  # only in the upper half of its box
    _, parts = quarter(np.array([[10.0, 10, 40, 60]]), [mask])
    assert parts is not None
    assert parts[0] is not None
    assert parts[0].sum() == 150
    assert parts[2] is not None
    assert parts[2].sum() == mask.sum()  # an empty quarter: all of the mask


def test_features_move_with_the_image() -> None:
    """Boxes and cells are fractions of the image: twice the pixels say the same."""
    small = features_of([16, 16, 64, 48], seed=1)
    double = features_of([32, 32, 128, 96], seed=1, scale=2)
    for name in INPUTS:
        assert np.allclose(getattr(small, name), getattr(double, name), atol=1e-5), name


# module and graph


def test_training_begins_at_the_training_free_answer() -> None:
    features = random_features(6)
    torch.manual_seed(0)
    (embeddings,) = RegionHeadModule(replace(SMALL, width=32)).eval()([tensors(features)])
    cosine = torch.nn.functional.cosine_similarity(embeddings, torch.from_numpy(features.conse))
    assert cosine.min() > 0.99


def test_a_region_does_not_depend_on_the_others() -> None:
    features = random_features(7)
    net = module()
    (together,) = net([tensors(features)])
    alone = replace(
        features,
        pooled=features.pooled[2:3],
        conse=features.conse[2:3],
        boxes=features.boxes[2:3],
    )
    (single,) = net([tensors(alone)])
    assert torch.allclose(together[2:3], single, atol=1e-5)


def test_the_image_around_counts() -> None:
    features = random_features(3)
    other = replace(features, memory=np.roll(features.memory, 5, axis=0))
    with torch.no_grad():
        (a,), (b,) = module()([tensors(features)]), module()([tensors(other)])
    assert (a - b).abs().max() > 1e-4


@pytest.mark.parametrize("count", [1, 2, 600])
def test_graph_equals_torch(saved: Path, count: int) -> None:
    features = random_features(count, seed=4)
    with torch.no_grad():
        (expected,) = rounded(module())([tensors(features)])
    expected = torch.nn.functional.normalize(expected, dim=-1)
    embeddings = region_head(saved).embed(features)
    assert np.abs(embeddings - expected.numpy()).max() < 1e-4


def test_graph_of_no_region(saved: Path) -> None:
    features = random_features(2)
    none = replace(
        features, pooled=features.pooled[:0], conse=features.conse[:0], boxes=features.boxes[:0]
    )
    assert region_head(saved).embed(none).shape == (0, 384)


def test_bad_sizes() -> None:
    with pytest.raises(InputError, match="does not divide"):
        RegionHeadConfig(width=190, heads=4)
    with pytest.raises(InputError, match="layers"):
        RegionHeadConfig(layers=9)


# files


def test_save_and_load(tmp_path: Path, saved: Path) -> None:
    head = region_head(saved)
    numbers = head.calibration
    assert numbers.names == ("dog", "cat")
    assert (numbers.gamma, numbers.scale, numbers.bias) == (0.13, 14.0, -6.0)
    assert np.allclose(numbers.trained, calibration().trained, atol=1e-3)
    assert len(head.digest) == 64
    again = trained_module(saved)
    features = random_features(4)
    with torch.no_grad():
        (expected,) = again([tensors(features)])
    expected = torch.nn.functional.normalize(expected, dim=-1)
    assert np.abs(head.embed(features) - expected.numpy()).max() < 1e-4
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "namer.safetensors").write_bytes(calibration().to_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        region_head(folder)
    sound = calibration()
    for wrong in (
        replace(sound, trained=sound.trained[:, :9]),
        replace(sound, trained=sound.trained[:-1]),
        replace(sound, trained=sound.trained * np.float32(np.nan)),
        replace(sound, gamma=2.0),
        replace(sound, scale=float("inf")),
        replace(sound, bias=float("nan")),
        replace(sound, known=sound.trained[:, :9]),
        replace(sound, typical=sound.trained[0] * np.float32(np.inf)),
        replace(sound, cost=1.5),
    ):
        (folder / "namer.safetensors").write_bytes(wrong.to_bytes())
        with pytest.raises(CheckpointError, match="damaged"):
            region_head(folder)
    (folder / "namer.safetensors").write_bytes(sound.to_bytes())
    with pytest.raises(CheckpointError, match="missing"):
        region_head(tmp_path / "nothing")
    # graphs that ONNX Runtime can run, but of something else
    (folder / "namer.onnx").write_bytes(read_asset("finder.onnx"))
    with pytest.raises(CheckpointError, match="cannot be run"):
        region_head(folder).embed(features)
    (folder / "namer.onnx").write_bytes(read_asset("classes.json"))
    with pytest.raises(CheckpointError, match="not a graph"):
        region_head(folder)


def test_the_folder_keeps_its_format(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "namer.json", "namer.onnx", "namer.safetensors", "namer_weights.safetensors",
        "card.json", "README.md",
    }  # fmt: skip
    content = json.loads((saved / "namer.json").read_text())
    assert content["format"] == "anyregion.compact.namer/1"
    assert set(content) == {"format", "module", "licence", "names", "figures"}
    assert b"novelty" in (saved / "namer.safetensors").read_bytes()
    card = (saved / "README.md").read_text()
    assert content["figures"]
    for name, value in content["figures"].items():
        assert f"| {name} | {value:.4g} |" in card


# losses and calibration


def test_losses_against_plain_numbers() -> None:
    embedded = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    matrix = torch.eye(2)
    loss = classification_loss(
        embedded, torch.tensor([0, 0]), matrix, torch.tensor([2.0, 1.0]), scale=1.0
    )
    expected = 2 * (np.log(1 + np.exp(-1)) + np.log(1 + np.exp(1))) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    beside = classification_loss(
        embedded[:1], torch.tensor([0]), matrix, torch.ones(2), scale=1.0,
        others=torch.tensor([[-1.0, 0.0], [0.0, -1.0]]),
    )  # fmt: skip
    assert float(beside) == pytest.approx(np.log(1 + 2 * np.exp(-1) + np.exp(-2)), rel=1e-6)
    away = distillation_loss(
        embedded, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 1, labelled_share=0.1
    )
    assert float(away) == pytest.approx(1.0, abs=1e-6)
    nothing = classification_loss(
        embedded[:0], torch.zeros(0, dtype=torch.long), matrix, torch.ones(2), scale=1.0
    )
    assert float(nothing) == 0


def test_scores_are_calibrated() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, 4000)
    cosines = draw.normal(0.1, 0.08, (4000, 10)).astype(np.float32)
    cosines[np.arange(4000), labels] += draw.normal(0.2, 0.15, 4000).astype(np.float32)
    scale, bias = fit_scores(cosines, labels)
    scores = 1 / (1 + np.exp(-(scale * cosines.max(axis=1) + bias)))
    right = cosines.argmax(axis=1) == labels
    assert ece(scores, right) < 0.1
    assert ece(np.full(len(right), 0.99), right) > 0.1
    perfect = fit_scores(np.eye(30, dtype=np.float32), np.arange(30))
    assert 0.9 < 1 / (1 + np.exp(-sum(perfect))) < 1
    with pytest.raises(InputError, match="no region"):
        fit_scores(cosines[:0], labels[:0])


# data


def test_boxes_of_a_step() -> None:
    draw = np.random.default_rng(0)
    boxes = np.array([[0.0, 0, 40, 40], [10, 10, 11.2, 90]])
    moved = sample_boxes(boxes, SIZE, draw, jitter=0.1, anywhere=0)
    assert (moved >= 0).all()
    assert (np.abs(moved - boxes) <= 8 + 1e-9).all()
    assert not np.allclose(moved[0], boxes[0])
    assert mirror_boxes(boxes, 128)[0].tolist() == [88, 0, 128, 40]
    with_random = sample_boxes(boxes, SIZE, draw, jitter=0.0, anywhere=500)
    assert np.array_equal(with_random[:2], boxes)
    anywhere = with_random[2:]
    assert len(anywhere) == 500
    assert (anywhere[:, 2:] - anywhere[:, :2] >= 16 - 1e-9).all()
    assert (anywhere >= 0).all()
    assert (anywhere <= [128, 96, 128, 96]).all()


class FakeStore:
    """Random maps of a few images whose classes show in the maps."""

    folder = Path("fake")

    def __init__(self, images: int = 6) -> None:
        draw = np.random.default_rng(1)
        count = images * 3
        low = draw.uniform(0, 50, (count, 2))
        labels = draw.integers(0, 4, count)
        self.annotations = Annotations(
            categories=Categories(
                ids=np.array([3, 5, 8, 9]),
                names=("dog", "cat", "bus", "tree"),
                synonyms=((),) * 4,
                frequency=("",) * 4,
            ),
            image_ids=tuple(map(str, range(images))),
            file_names=tuple(f"{i}.jpg" for i in range(images)),
            sizes=np.array([SIZE] * images),
            starts=np.arange(images + 1) * 3,
            boxes=np.concatenate([low, low + draw.uniform(16, 40, (count, 2))], axis=1),
            labels=labels,
            crowd=np.zeros(count, dtype=bool),
            areas=np.full(count, 100.0),
            region_ids=np.arange(count),
        )
        self.fingerprint = "fake"

    def usable(self) -> np.ndarray:
        return np.arange(len(self.annotations))

    def read(self, image: int, *, flipped: bool = False) -> dict[str, np.ndarray]:
        pyramid = random_pyramid(100 + image)
        step = -1 if flipped else 1
        arrays = {n: v[:, ::step].astype(np.float16) for n, v in pyramid.maps.items()}
        return {**arrays, "span": np.array(pyramid.span, dtype=np.float32)}


def task(seed: int = 0, distractors: int = 0, **changes: object) -> RegionTask:
    text_encoder = CompactTextEncoder(threads=1)
    settings = RegionTaskConfig(
        data=(StoreConfig("fake"),),
        validation=StoreConfig("fake"),
        batch=3,
        module=replace(SMALL, dropout=0.1),
        objective=RegionObjective(random_boxes=2, class_power=0.4, distractors=distractors),
        licence="test",
        **changes,  # type: ignore[arg-type]
    )
    store = FakeStore()
    dataset = open_named_dataset(store, text_encoder, unseen=settings.unseen)  # type: ignore[arg-type]
    validation = open_named_dataset(store, text_encoder)  # type: ignore[arg-type]
    return make_task([dataset], settings, validation=validation, seed=seed)


def test_steps_follow_from_the_seed_alone() -> None:
    one, other, third = task(0), task(0), task(1)
    assert one.plan(3) == other.plan(3)
    assert [one.plan(s) for s in range(4)] != [third.plan(s) for s in range(4)]
    a, b = one.load(one.plan(2)[0]), other.load(other.plan(2)[0])
    assert torch.equal(a.features[0], b.features[0])
    assert len(a.features[0]) == 3 + 2


def test_unseen_classes_are_left_out() -> None:
    without_cats = task(unseen="every:4:1")  # the second id: cat
    dataset = without_cats.datasets[0]
    annotations = dataset.annotations
    row_of_label = np.array([0, -1, 1, 2])
    assert np.array_equal(dataset.labels, row_of_label[annotations.labels])
    assert dataset.vocabulary.vocabulary.names == ("dog", "bus", "tree")
    assert len(without_cats.validation.vocabulary.matrix) == 4
    for step in range(6):
        for item in without_cats.plan(step):
            example = without_cats.load(item)
            boxes, labels = dataset.labelled(item.image)
            assert len(boxes) == len(labels) == len(example.labels)
            annotated = annotations.labels[annotations.rows(item.image)]
            assert len(labels) == (annotated != 1).sum()
    weights = without_cats._weights[0].numpy()[dataset.labels]
    assert weights[dataset.labels >= 0].mean() == pytest.approx(1, rel=1e-5)


def test_distractors_are_right_of_nothing_that_is_trained() -> None:
    one, other = task(distractors=50), task(distractors=50)
    # `puppy` shares no word with `dog`, and is a kind of it
    text = CompactTextEncoder(threads=1)
    names = encode_vocabulary(
        Vocabulary.from_names(["dog", "puppy", "minibus", "helmet"]), text, cache=None
    )
    nearest = (names.matrix @ one._distractor_pool.T).max(axis=1)
    assert (nearest[:3] < 0.99).all()
    assert nearest[3] == pytest.approx(1, abs=1e-5)
    counts = []
    for step in range(8):
        for item in one.plan(step):
            drawn, again = one.load(item).distractors, other.load(item).distractors
            assert drawn is not None
            assert again is not None
            assert torch.equal(drawn, again)
            assert len(torch.unique(drawn, dim=0)) == len(drawn)
            counts.append(len(drawn))
    assert max(counts) <= 50
    assert min(counts) < 8 < max(counts)
    assert task().load(task().plan(0)[0]).distractors is None
    items = one.plan(0)
    examples = [one.load(item) for item in items]
    alone = [replace(example, distractors=None) for example in examples]
    with torch.no_grad():
        module = one.module.eval()
        losses = [one.losses(module, e)["naming"] for e in (examples, alone)]
    assert (losses[0] >= losses[1]).all()
    with pytest.raises(InputError, match="distractors"):
        task(distractors=-1)


def test_it_learns_and_saves(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    region_task = task()
    before = region_task.validate(region_task.module.eval())
    loop = LoopConfig(
        steps=40, optimizer=OptimizerConfig(lr=3e-3), checkpoint_every=1000, tensorboard=False
    )
    # the graph of the same architecture stands in: exports are tested above
    monkeypatch.setattr(
        checkpoint, "export_region_head", lambda _, path: shutil.copy(saved / "namer.onnx", path)
    )
    report = fit(region_task, loop, tmp_path)
    assert report.validation["top1"] > before["top1"] + 0.2
    head = region_head(tmp_path / "model")
    assert sorted(head.calibration.names) == ["bus", "cat", "dog", "tree"]
    assert head.embed(random_features(3)).shape == (3, 384)
    learned = trained_module(tmp_path / "model")
    assert (learned.projector.weight - module().projector.weight).abs().max() > 1e-3
