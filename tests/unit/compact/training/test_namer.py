"""The trained module of compact: evidence, module, graph, names, calibration, task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("lightning_fabric")

import torch

from anyregion.compact.assets import read_asset
from anyregion.compact.calibrated_stacking import ANCHOR, LENGTH, stack_names, stack_regions
from anyregion.compact.conse import load_conse
from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid
from anyregion.compact.onnx_session import start_session
from anyregion.compact.region_features import (
    MEMORY,
    POOLED,
    RegionFeatures,
    extract_region_features,
    quarters,
)
from anyregion.compact.region_head import INPUTS, Calibration, RegionHead, load_region_head
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.compact.training.calibration import fit_scores, held_out_error
from anyregion.compact.training.checkpoint import export_region_head, save_region_head
from anyregion.compact.training.checkpoint import load_region_head_module as load_module
from anyregion.compact.training.named_set import jittered, named_set, random_boxes
from anyregion.compact.training.onnx_export import rounded
from anyregion.compact.training.region_config import RegionObjective, RegionTaskConfig
from anyregion.compact.training.region_head_module import RegionHeadConfig, RegionHeadModule
from anyregion.compact.training.region_losses import (
    classification_loss,
    distillation_loss,
)
from anyregion.compact.training.region_task import RegionTask
from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.mirror import mirror_boxes
from anyregion.errors import CheckpointError, InputError
from anyregion.evaluation.metrics.calibration import ece
from anyregion.regions import Regions
from anyregion.training.config import LoopConfig, OptimizerConfig
from anyregion.training.loop import fit

SIZE = (96, 128)
SMALL = RegionHeadConfig(width=16, layers=1, heads=2, dropout=0.0)


def maps(seed: int, size: tuple[int, int] = SIZE) -> FeaturePyramid:
    """Random maps of an image whose long side is 128 and that is padded to 32."""
    draw = np.random.default_rng(seed)
    shape = {"stride8": 8, "stride16": 16, "stride32": 32, "last": 32}
    found = {
        name: draw.normal(size=(size[0] // s, size[1] // s, CHANNELS[name])).astype(np.float32)  # type: ignore[index]
        for name, s in shape.items()
    }
    return FeaturePyramid(found, (float(size[0]), float(size[1])))  # type: ignore[arg-type]


def evidence(count: int, seed: int = 0) -> RegionFeatures:
    draw = np.random.default_rng(seed)
    low = draw.uniform(0, 0.5, (count, 2)) * [SIZE[1], SIZE[0]]
    boxes = np.concatenate([low, low + draw.uniform(8, 40, (count, 2))], axis=1)
    return extract_region_features(maps(seed), SIZE, Regions.from_boxes(boxes), load_conse())


def tensors(found: RegionFeatures) -> list[torch.Tensor]:
    return [torch.from_numpy(getattr(found, name)) for name in INPUTS]


def module(seed: int = 0) -> RegionHeadModule:
    torch.manual_seed(seed)
    made = RegionHeadModule(SMALL).eval()
    with torch.no_grad():  # as after some training: the learned part counts
        made.projector.weight.mul_(300)
    return made


# evidence


def test_quarters_make_up_their_box() -> None:
    found = quarters(Regions.from_boxes([[10, 20, 50, 80], [0, 0, 30, 10]]))
    assert found.boxes[:4].tolist() == [
        [10, 20, 30, 50], [30, 20, 50, 50], [10, 50, 30, 80], [30, 50, 50, 80],
    ]  # fmt: skip
    whole = evidence(5)
    seen = extract_region_features(
        maps(3), SIZE, Regions.from_boxes([[10, 20, 50, 80]]), load_conse()
    )
    fine = maps(3).maps["stride8"]
    assert seen.pooled.shape == (1, POOLED)
    # the mean of the quarters is the mean over the box, here by cells of 8 pixels, partly covered
    rows = np.clip(np.minimum(80, np.arange(8, 104, 8)) - np.maximum(20, np.arange(0, 96, 8)), 0, 8)
    cols = np.clip(
        np.minimum(50, np.arange(8, 136, 8)) - np.maximum(10, np.arange(0, 128, 8)), 0, 8
    )
    mean = np.einsum("h,w,hwc->c", rows, cols, fine) / (rows.sum() * cols.sum())
    assert np.allclose(seen.pooled[0, :160].reshape(4, 40).mean(axis=0), mean, atol=1e-5)
    assert whole.memory.shape == (12, MEMORY)
    assert np.allclose(np.linalg.norm(whole.conse, axis=1), 1, atol=1e-5)


def test_a_mask_is_cut_into_quarters() -> None:
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:20, 10:40] = True  # only in the upper half of its box
    regions = Regions.from_prompts(boxes=[[10, 10, 40, 60]], masks=[mask])
    found = quarters(regions)
    parts = [found.mask(i) for i in range(4)]
    assert parts[0] is not None
    assert parts[0].sum() == 150
    assert parts[2] is not None
    assert parts[2].sum() == mask.sum()  # an empty quarter: the whole mask


def test_evidence_moves_with_the_image() -> None:
    """Boxes and cells are fractions of the image: twice the pixels say the same."""
    small = extract_region_features(
        maps(1), SIZE, Regions.from_boxes([[16, 16, 64, 48]]), load_conse()
    )
    seen = maps(1)
    large = FeaturePyramid(seen.maps, (seen.span[0] * 2, seen.span[1] * 2))
    double = (SIZE[0] * 2, SIZE[1] * 2)
    other = extract_region_features(
        large, double, Regions.from_boxes([[32, 32, 128, 96]]), load_conse()
    )
    for name in INPUTS:
        assert np.allclose(getattr(small, name), getattr(other, name), atol=1e-5), name


# module and graph


def test_training_begins_at_the_training_free_answer() -> None:
    found = evidence(6)
    torch.manual_seed(0)
    (made,) = RegionHeadModule(replace(SMALL, width=32)).eval()([tensors(found)])
    cosine = torch.nn.functional.cosine_similarity(made, torch.from_numpy(found.conse))
    assert cosine.min() > 0.99


def test_a_region_does_not_depend_on_the_others() -> None:
    found = evidence(7)
    net = module()
    (together,) = net([tensors(found)])
    alone = replace(found, pooled=found.pooled[2:3], conse=found.conse[2:3], boxes=found.boxes[2:3])
    (single,) = net([tensors(alone)])
    assert torch.allclose(together[2:3], single, atol=1e-5)


def test_the_image_around_counts() -> None:
    found = evidence(3)
    other = replace(found, memory=np.roll(found.memory, 5, axis=0))
    with torch.no_grad():
        (a,), (b,) = module()([tensors(found)]), module()([tensors(other)])
    assert (a - b).abs().max() > 1e-4


@pytest.mark.parametrize("count", [1, 2, 600])
def test_graph_equals_torch(tmp_path: Path, count: int) -> None:
    net = module()
    export_region_head(net, tmp_path / "namer.onnx")
    graph = RegionHead(
        start_session((tmp_path / "namer.onnx").read_bytes(), threads=1, device="cpu")
    )
    found = evidence(count, seed=4)
    with torch.no_grad():
        (expected,) = rounded(net)([tensors(found)])
    expected = torch.nn.functional.normalize(expected, dim=-1)
    assert np.abs(graph.embed(found) - expected.numpy()).max() < 1e-4


def test_graph_of_no_region(tmp_path: Path) -> None:
    export_region_head(module(), tmp_path / "namer.onnx")
    content = (tmp_path / "namer.onnx").read_bytes()
    found = evidence(2)
    none = replace(found, pooled=found.pooled[:0], conse=found.conse[:0], boxes=found.boxes[:0])
    graph = RegionHead(start_session(content, threads=1, device="cpu"))
    assert graph.embed(none).shape == (0, 384)


def test_bad_sizes() -> None:
    with pytest.raises(InputError, match="does not divide"):
        RegionHeadConfig(width=190, heads=4)
    with pytest.raises(InputError, match="layers"):
        RegionHeadConfig(layers=9)


# files


def numbers() -> Calibration:
    words = CompactTextEncoder(load_conse(), threads=1)
    return Calibration(words.encode_text(["a dog", "a cat"]), ("dog", "cat"), 0.13, 14.0, -6.0)


def test_save_and_load(tmp_path: Path) -> None:
    net = module()
    save_region_head(
        net, tmp_path / "model", numbers(), licence="Apache-2.0", figures={"top1": 0.5}
    )
    graph, read, digest = load_region_head(tmp_path / "model", threads=1)
    assert read.names == ("dog", "cat")
    assert (read.novelty, read.scale, read.bias) == (0.13, 14.0, -6.0)
    assert np.allclose(read.trained, numbers().trained, atol=1e-3)
    again = load_module(tmp_path / "model")
    found = evidence(4)
    with torch.no_grad():
        (expected,) = again([tensors(found)])
    expected = torch.nn.functional.normalize(expected, dim=-1)
    assert np.abs(graph.embed(found) - expected.numpy()).max() < 1e-4
    (tmp_path / "model" / "namer.safetensors").write_bytes(numbers().to_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_region_head(tmp_path / "model", threads=1)
    with pytest.raises(CheckpointError, match="missing"):
        load_region_head(tmp_path / "nothing", threads=1)
    (tmp_path / "model" / "namer.onnx").write_bytes(read_asset("classes.json"))
    with pytest.raises(CheckpointError, match="not a graph"):
        load_region_head(tmp_path / "model", threads=1)
    assert len(digest) == 64


# names that were not trained


def test_new_names_gain_where_a_region_is_doubtful() -> None:
    words = CompactTextEncoder(load_conse(), threads=1)
    trained = words.encode_text(["a couch", "a dog"])
    names = words.encode_text(["a couch", "a sofa", "a wine glass"])
    told = stack_names(names, trained, 0.2)
    assert np.allclose(np.linalg.norm(told, axis=1), 1, atol=1e-5)
    doubtful, sure = stack_regions(names[2:3], trained), stack_regions(names[0:1], trained)
    assert np.allclose(np.linalg.norm([doubtful, sure], axis=2), LENGTH, atol=1e-5)
    gain = (doubtful @ told.T)[0] - (names[2:3] @ names.T)[0]
    assert gain[0] == pytest.approx(0, abs=1e-6)
    assert 0 <= gain[1] < 0.1
    # of a wholly new name: the handicap, less what its vector was shortened
    assert gain[2] == pytest.approx(0.2 - (1 - np.sqrt(1 - (0.2 / ANCHOR) ** 2)), abs=1e-4)
    # a region that is surely of a trained class lifts no new name
    assert (sure @ told.T)[0, 2] <= (names[0:1] @ names.T)[0, 2] + 1e-6


# losses and figures


def test_losses_against_plain_numbers() -> None:
    embedded = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    matrix = torch.eye(2)
    loss = classification_loss(
        embedded, torch.tensor([0, 0]), matrix, torch.tensor([2.0, 1.0]), scale=1.0
    )
    expected = 2 * (np.log(1 + np.exp(-1)) + np.log(1 + np.exp(1))) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6)
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
    assert held_out_error(cosines, labels) < 0.1
    assert ece(np.full(len(right), 0.99), right) > 0.1
    perfect = fit_scores(np.eye(30, dtype=np.float32), np.arange(30))
    assert 0.9 < 1 / (1 + np.exp(-sum(perfect))) < 1
    with pytest.raises(InputError, match="no region"):
        fit_scores(cosines[:0], labels[:0])


# data


def test_boxes_of_a_step() -> None:
    draw = np.random.default_rng(0)
    boxes = np.array([[0.0, 0, 40, 40], [10, 10, 11.2, 90]])
    moved = jittered(boxes, SIZE, 0.1, draw)
    assert (moved >= 0).all()
    assert (np.abs(moved - boxes) <= 8 + 1e-9).all()
    assert not np.allclose(moved[0], boxes[0])
    assert mirror_boxes(boxes, 128)[0].tolist() == [88, 0, 128, 40]
    anywhere = random_boxes(500, SIZE, draw)
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
        found = maps(100 + image)
        step = -1 if flipped else 1
        arrays = {n: v[:, ::step].astype(np.float16) for n, v in found.maps.items()}
        return {**arrays, "span": np.array(found.span, dtype=np.float32)}


def task(seed: int = 0, **changes: object) -> RegionTask:
    words = CompactTextEncoder(load_conse(), threads=1)
    settings = RegionTaskConfig(
        stores=("fake",),
        validation="fake",
        batch=3,
        module=replace(SMALL, dropout=0.1),
        objective=RegionObjective(random_boxes=2),
        licence="test",
        **changes,  # type: ignore[arg-type]
    )
    store = FakeStore()
    data = named_set(store, words, unseen=settings.unseen, class_power=0.4)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    return RegionTask(
        RegionHeadModule(settings.module),
        [data],
        named_set(store, words),  # type: ignore[arg-type]
        settings,
        seed=seed,
    )


def test_steps_follow_from_the_seed_alone() -> None:
    one, other, third = task(0), task(0), task(1)
    assert one.plan(3) == other.plan(3)
    assert [one.plan(s) for s in range(4)] != [third.plan(s) for s in range(4)]
    a, b = one.load(one.plan(2)[0]), other.load(other.plan(2)[0])
    assert np.array_equal(a.evidence.pooled, b.evidence.pooled)
    assert len(a.evidence.pooled) == 3 + 2


def test_unseen_classes_are_left_out() -> None:
    made = task(unseen="every:4:1")  # the second id: cat
    data = made.sets[0]
    assert data.row.tolist() == [0, -1, 1, 2]
    assert data.taking_part == ["dog", "bus", "tree"]
    assert len(made.validation.matrix) == 4
    for step in range(6):
        for item in made.plan(step):
            example = made.load(item)
            boxes, labels, _ = data.labelled(item.image)
            assert len(boxes) == len(labels) == len(example.labels)
            stated = data.reader.annotations.labels[data.reader.annotations.rows(item.image)]
            assert len(labels) == (stated != 1).sum()
    weights = data.weights[data.row[data.reader.annotations.labels]]
    taking = data.row[data.reader.annotations.labels] >= 0
    assert weights[taking].mean() == pytest.approx(1, rel=1e-5)


def test_it_learns_and_saves(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    made = task()
    before = made.validate(made.module.eval())
    loop = LoopConfig(
        steps=40, optimizer=OptimizerConfig(lr=3e-3), checkpoint_every=1000, tensorboard=False
    )
    report = fit(made, loop, tmp_path)
    assert report.validation["top1"] > before["top1"] + 0.2
    graph, read, _ = load_region_head(tmp_path / "model", threads=1)
    assert sorted(read.names) == ["bus", "cat", "dog", "tree"]
    assert graph.embed(evidence(3)).shape == (3, 384)
