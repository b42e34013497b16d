"""The adapter against torch's own decoder; the encoder's promises; folders and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from anyregion import (  # noqa: E402
    AnyRegionError,
    CheckpointError,
    InputError,
    Recognizer,
    Regions,
    Vocabulary,
)
from anyregion.cli.main import main  # noqa: E402
from anyregion.images import Pixels  # noqa: E402
from anyregion.localizers.protocol import RegionTokens  # noqa: E402
from anyregion.masks import RLE, encode_mask  # noqa: E402
from anyregion.regionspot.adapter import Adapter, AdapterConfig, count_parameters  # noqa: E402
from anyregion.regionspot.attention import attention_maps, overlay_attention  # noqa: E402
from anyregion.regionspot.checkpoint import convert_checkpoint, load_published  # noqa: E402
from anyregion.regionspot.encoder import RegionSpotEncoder  # noqa: E402
from anyregion.regionspot.objective import focal_loss, region_logits, repeated_rows  # noqa: E402
from anyregion.regionspot.pretrained import (  # noqa: E402
    adapter_from_state,
    from_pretrained,
    load_adapter,
    read_config,
    save_pretrained,
)
from anyregion.runs.batch import BatchReport, recognize_images  # noqa: E402
from anyregion.runs.region_sources import same_regions  # noqa: E402
from anyregion.semantics.protocol import FeatureMap  # noqa: E402

SMALL = AdapterConfig(token_width=16, feature_width=32, embed_width=24, heads=4, feedforward=64)


def seeded(config: AdapterConfig = SMALL) -> Adapter:
    torch.manual_seed(3)
    return Adapter(config).eval()


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_adapter_equals_torch(layers: int) -> None:
    adapter = seeded(replace(SMALL, layers=layers))
    reference = torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(32, 4, 64, batch_first=True),
        layers,
        torch.nn.LayerNorm(32),
    ).eval()
    reference.load_state_dict(adapter.decoder.state_dict())  # the same names, all of them
    tokens, features = torch.randn(2, 5, 16), torch.randn(2, 10, 32)
    expected = adapter.projector(reference(adapter.to_clip(tokens), features))
    torch.testing.assert_close(adapter(tokens, features), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "embed", "millions"), [(768, 512, 24.2), (1024, 768, 38.9)], ids=["B/16", "L/14"]
)
def test_published_sizes(width: int, embed: int, millions: float) -> None:
    with torch.device("meta"):
        learned = count_parameters(Adapter(AdapterConfig(feature_width=width, embed_width=embed)))
    # the published counts include no layer that is unused: they round to the paper's figures
    assert learned / 1e6 == pytest.approx(millions, abs=0.06)


def test_groups_are_islands() -> None:
    adapter = seeded()
    tokens, features = torch.randn(1, 5, 16), torch.randn(1, 10, 32)
    together = adapter(tokens, features, groups=torch.tensor([[0, 1, 0, 1, -1]]))
    for rows in ([0, 2], [1, 3]):
        alone = adapter(tokens[:, rows], features)
        torch.testing.assert_close(together[:, rows], alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together[:, :4], adapter(tokens, features)[:, :4], atol=1e-3)


def test_independent_regions_do_not_see_each_other() -> None:
    adapter = seeded(replace(SMALL, attention="independent"))
    tokens, features = torch.randn(1, 5, 16), torch.randn(1, 10, 32)
    together = adapter(tokens, features)
    for i in range(5):
        torch.testing.assert_close(
            together[:, [i]], adapter(tokens[:, [i]], features), rtol=1e-5, atol=1e-6
        )
    mutual = seeded()  # the same weights, attending to themselves alone
    islands = mutual(tokens, features, groups=torch.arange(5)[None])
    torch.testing.assert_close(together, islands, rtol=1e-5, atol=1e-6)


def test_without_features() -> None:
    adapter = seeded(replace(SMALL, use_features=False))
    assert not any("multihead_attn" in name for name in adapter.state_dict())
    assert adapter(torch.randn(1, 3, 16), None).shape == (1, 3, 24)
    with pytest.raises(InputError, match="none was given"):
        seeded()(torch.randn(1, 3, 16), None)


@pytest.mark.parametrize("change", [{"heads": 5}, {"layers": 0}, {"layers": 7}, {"attention": "x"}])
def test_configuration_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(SMALL, **change)


class ToyLocalizer:
    """Tokens that depend on image and box; three candidates whose ranks differ by region."""

    name = "toy-localizer"
    token_width = 16
    fingerprint = "toy-localizer-1"

    def encode(self, images: Sequence[Pixels]) -> list[Any]:
        return [(float(i.mean()) / 255, i.shape[:2]) for i in images]

    def tokens(
        self,
        encoded: Any,
        regions: Regions,
        *,
        multimask: bool = False,
        masks: bool = False,
        source: str = "decoder",
    ) -> RegionTokens:
        boxes = torch.from_numpy(regions.extents()).float() / 20 + encoded[0]
        count = 3 if multimask else 1
        phase = torch.arange(1, 17)[None, None] * (1 + torch.arange(count))[None, :, None] / 7
        tokens = torch.sin(boxes.sum(dim=1)[:, None, None] * phase)
        scores = torch.cos(boxes.sum(dim=1)[:, None] * (1 + torch.arange(count)))
        logits = scores[:, :, None, None].expand(-1, -1, 2, 2).clone()
        return RegionTokens(tokens, scores, logits if masks else None)

    def masks(self, encoded: Any, mask_logits: Any) -> list[list[RLE]]:
        full = np.ones(encoded[1], bool)
        return [[encode_mask(full) for _ in row] for row in mask_logits]


class ToyWords:
    fingerprint = "toy-words"
    templates = ("{}",)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        seeds = [sum(t.encode()) for t in texts]
        return np.stack([np.random.default_rng(s).standard_normal(24) for s in seeds]).astype("f4")

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        return [False] * len(texts)


class ToyVlm:
    """A feature map of 2 x 3 cells behind a class token."""

    name, logit_scale, logit_bias = "toy-vlm", 20.0, 0.0
    feature_width, embed_width, image_size = 32, 24, 96
    fingerprint = "toy-vlm-1"
    text = ToyWords()

    def feature_map(self, images: Sequence[Pixels], *, antialias: bool = True) -> FeatureMap:
        means = torch.tensor([[float(i.mean()) / 50] for i in images])
        tokens = torch.sin(means[:, :, None] * torch.arange(1, 7 * 32 + 1).reshape(1, 7, 32) / 9)
        return FeatureMap(tokens, (2, 3))


def toy_encoder(config: AdapterConfig = SMALL, **options: Any) -> RegionSpotEncoder:
    return RegionSpotEncoder(ToyLocalizer(), ToyVlm(), seeded(config), **options)  # type: ignore[arg-type]


WORDS = ["cup", "pen", "key", "bus"]


def images_and_regions() -> tuple[list[Pixels], list[Regions]]:
    rng = np.random.default_rng(5)
    images = [np.full((10 + i, 20, 3), 40 * i + 20, np.uint8) for i in range(5)]
    counts = [3, 0, 1, 7, 2]
    regions = []
    for n in counts:
        low = rng.uniform(0, 5, (n, 2))
        regions.append(Regions.from_boxes(np.concatenate([low, low + 4], axis=1)))
    return images, regions


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("attention", ["mutual", "independent"])
def test_a_batch_equals_one_by_one(multimask: bool, attention: Any) -> None:
    images, regions = images_and_regions()
    config = replace(SMALL, attention=attention)
    together = Recognizer(toy_encoder(config, images_at_once=2), cache=None).recognize(
        images, regions, WORDS, multimask=multimask
    )
    single = Recognizer(toy_encoder(config), cache=None)
    for image, asked, found in zip(images, regions, together, strict=True):
        single.set_image(image)
        alone = single.ask(asked, WORDS, multimask=multimask)
        assert len(found) == len(asked) * (3 if multimask else 1)
        assert found.indices.tolist() == alone.indices.tolist()
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.embeddings, alone.embeddings, rtol=1e-4, atol=1e-5)


def test_all_candidates_come_back_ranked() -> None:
    recognizer = Recognizer(toy_encoder(), cache=None)
    images, regions = images_and_regions()
    recognizer.set_image(images[3])
    found = recognizer.ask(regions[3], WORDS, multimask=True, masks=True)
    assert found.rows.tolist() == [i for i in range(7) for _ in range(3)]
    assert found.mask_scores is not None
    assert found.masks is not None
    assert (np.diff(found.mask_scores.reshape(7, 3), axis=1) <= 0).all()
    best = found.best_candidates()
    assert best.rows.tolist() == list(range(7))
    assert best.mask_scores is not None
    assert best.mask_scores.tolist() == found.mask_scores.reshape(7, 3).max(axis=1).tolist()


def test_no_image_no_words_no_region() -> None:
    recognizer = Recognizer(toy_encoder(), cache=None)
    with pytest.raises(InputError, match="set_image first"):
        recognizer.ask(Regions.from_boxes([[0, 0, 1, 1]]), WORDS)
    recognizer.set_image(np.zeros((8, 8, 3), np.uint8))
    assert len(recognizer.ask(Regions.from_boxes([]), WORDS)) == 0
    with pytest.raises(InputError, match="outside"):
        recognizer.ask(Regions.from_boxes([[50, 50, 60, 60]]), WORDS)
    with pytest.raises(InputError, match="empty"):
        recognizer.ask(Regions.from_boxes([[0, 0, 1, 1]]), [])
    with pytest.raises(InputError, match="one Regions for each"):
        recognizer.recognize([np.zeros((8, 8, 3), np.uint8)], [], WORDS)


def test_detector_scores_multiply() -> None:
    recognizer = Recognizer(toy_encoder(), cache=None)
    recognizer.set_image(np.zeros((8, 8, 3), np.uint8))
    plain = recognizer.ask(Regions.from_boxes([[0, 0, 4, 4]]), WORDS)
    scored = recognizer.ask(Regions.from_boxes([[0, 0, 4, 4]], scores=[0.25]), WORDS)
    np.testing.assert_allclose(scored.scores, plain.scores * 0.25, rtol=1e-6)


def test_a_second_vocabulary_costs_no_image_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = toy_encoder()
    recognizer = Recognizer(encoder, cache=None)
    recognizer.set_image(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(encoder, "encode_images", lambda images: pytest.fail("encoded again"))
    for words in (WORDS, ["cat", "dog"]):
        assert recognizer.ask(Regions.from_boxes([[0, 0, 4, 4]]), words).labels[0] in words


def test_attention_is_a_share() -> None:
    encoder = toy_encoder()
    images, regions = images_and_regions()
    (encoded,) = encoder.encode_images([images[0]])
    maps = attention_maps(encoder, encoded, regions[0])
    assert maps.shape == (3, 2, 3)
    assert (maps >= 0).all()
    assert (maps.sum(axis=(1, 2)) < 1).all()  # the rest went to the class token
    assert overlay_attention(images[0], maps[0]).size == (20, 10)
    with pytest.raises(InputError, match="no 3"):
        attention_maps(encoder, encoded, regions[0], layer=3)


def test_widths_must_fit() -> None:
    with pytest.raises(InputError, match="words of width 25"):
        toy_encoder(replace(SMALL, embed_width=25))


def test_folder_round_trip(tmp_path: Path) -> None:
    encoder = toy_encoder(replace(SMALL, layers=2, attention="independent"), antialias=False)
    save_pretrained(encoder, tmp_path, licence="Apache-2.0", origin="a test")
    about = read_config(tmp_path)
    assert about.adapter == encoder.adapter.config
    assert (about.localizer, about.vlm, about.antialias) == ("toy-localizer", "toy-vlm", False)
    assert about.vlm_image_size == 96
    again = load_adapter(tmp_path / "adapter.safetensors", about.adapter)
    for name, tensor in encoder.adapter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    card = (tmp_path / "README.md").read_text()
    assert "toy-vlm" in card
    assert "Apache-2.0" in card


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{}", "format"), ("[1]", "malformed"), ('{"format": "other"}', "format 'other'")],
)
def test_folder_refused(content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=reason):
        read_config(tmp_path)


def published(path: Path, config: AdapterConfig = SMALL, **more: Any) -> dict[str, Any]:
    state = {f"model.{n}": t for n, t in seeded(config).state_dict().items()}
    torch.save({"model": {**state, **more}}, path)
    return state


def test_convert_an_adapter(tmp_path: Path) -> None:
    path, out = tmp_path / "adapter.pth", tmp_path / "out"
    published(path, replace(SMALL, layers=2))
    with pytest.raises(CheckpointError, match="name the VLM"):
        convert_checkpoint(path, out)
    about = convert_checkpoint(path, out, vlm="some/clip")
    assert (about.adapter.layers, about.adapter.feedforward) == (2, 64)
    assert (about.localizer, about.vlm) == ("facebook/sam-vit-base", "some/clip")
    assert read_config(out).licence == "CC-BY-NC-4.0"
    assert "CC-BY-NC-4.0" in (out / "README.md").read_text()


def test_other_sizes_are_named() -> None:
    state = dict(seeded().state_dict())
    state["projector.weight"] = torch.ones(3, 3)
    del state["decoder.norm.bias"]
    with pytest.raises(CheckpointError, match=r"missing decoder\.norm\.bias.*\(3, 3\)"):
        adapter_from_state(state, SMALL, "here")


@pytest.mark.parametrize("where", ["file", "below a file", "unwritable"])
def test_convert_says_what_it_cannot_write(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    published(tmp_path / "adapter.pth")
    (tmp_path / "file").write_text("precious")
    out = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "out",
        "unwritable": Path("/proc/nowhere/out"),
    }[where]
    words = ["convert", str(tmp_path / "adapter.pth"), str(out), "--vlm", "some/clip"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"anyregion: error: {out}")
    assert ("not a folder" if where == "file" else "cannot be written") in error
    assert (tmp_path / "file").read_text() == "precious"


def test_a_full_disk_leaves_no_half_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device")

    published(tmp_path / "adapter.pth")
    monkeypatch.setattr("anyregion.weight_files.save_file", full)
    with pytest.raises(AnyRegionError, match="No space left on device"):
        convert_checkpoint(tmp_path / "adapter.pth", tmp_path / "out", vlm="some/clip")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("load", [from_pretrained, load_published])
def test_a_device_that_is_not_here(tmp_path: Path, load: Any) -> None:
    """Said before a file is read."""
    with pytest.raises(InputError, match="device 'foo' cannot be used: torch offers cpu"):
        load(tmp_path / "nothing", device="foo")


def change(name: str, encoder: RegionSpotEncoder) -> None:
    if name == "adapter":
        encoder.adapter.projector.bias.data[0] += 1
    elif name == "attention":
        encoder.adapter.config = replace(SMALL, attention="independent")
    elif name in ("source", "antialias"):
        setattr(encoder, name, {"source": "prompt", "antialias": False}[name])
    else:
        getattr(encoder, name).fingerprint = "another"


@pytest.mark.parametrize(
    "name", ["adapter", "attention", "source", "antialias", "localizer", "vlm"]
)
def test_fingerprint_follows_all_that_answers(name: str) -> None:
    encoder = toy_encoder()
    before = encoder.fingerprint
    assert before == toy_encoder().fingerprint
    change(name, encoder)
    assert encoder.fingerprint != before


def test_a_run_of_other_weights_is_not_continued(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (20, 10), (90 * i, 50, 50)).save(tmp_path / f"{i}.png")
    trained = toy_encoder()

    def run(*names: str) -> BatchReport:
        return recognize_images(
            [tmp_path / name for name in names],
            Vocabulary.from_names(WORDS),
            same_regions(Regions.from_boxes([[0, 0, 4, 4]])),
            lambda: Recognizer(trained, cache=None),
            out=tmp_path / "out",
        )

    assert run("0.png").images == 1
    change("adapter", trained)
    with pytest.raises(InputError, match="finished images were named by other weights"):
        run("0.png", "1.png")


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, 0.0]], [[1.0, 1.0], [9.0, 9.0]]])
    labels = torch.tensor([[0, 1], [1, -1]])
    p = torch.sigmoid(logits)
    target = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [0, 0]]])
    right = torch.where(target == 1, p, 1 - p)
    weight = torch.where(target == 1, 0.25, 0.75)
    terms = -weight * (1 - right) ** 2 * right.log()
    expected = terms[0].sum() / 2 + terms[1, 0].sum()  # the padding row counts nowhere
    torch.testing.assert_close(focal_loss(logits, labels, over_images="sum"), expected)
    torch.testing.assert_close(focal_loss(logits, labels), expected / 2)
    with pytest.raises(InputError, match="0 to 1"):
        focal_loss(logits, labels + 5)


def test_region_logits_match_the_scorer() -> None:
    from anyregion.scoring import logits

    regions, words = torch.randn(4, 8), torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    ours = region_logits(regions, words, 12.5).numpy()
    np.testing.assert_allclose(ours, logits(regions.numpy(), words.numpy(), scale=12.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("count", "wanted", "rows"),
    [(3, 5, [0, 1, 1, 2, 2]), (2, 2, [0, 1]), (1, 3, [0, 0, 0]), (3, 7, [0, 0, 1, 1, 2, 2, 2])],
)
def test_repeated_rows(count: int, wanted: int, rows: list[int]) -> None:
    assert repeated_rows(count, wanted) == rows


@pytest.mark.parametrize(("count", "wanted"), [(0, 3), (4, 3)])
def test_repeated_rows_refused(count: int, wanted: int) -> None:
    with pytest.raises(InputError):
        repeated_rows(count, wanted)


def test_a_point_gets_the_box_of_its_mask_or_stays_inside_the_image() -> None:
    recognizer = Recognizer(toy_encoder(), cache=None)
    recognizer.set_image(np.zeros((40, 60, 3), np.uint8))
    point = Regions.from_prompts(points=[[[2, 3]]])
    assert recognizer.ask(point, WORDS).boxes.tolist() == [[0, 0, 18, 19]]
    masked = recognizer.ask(point, WORDS, masks=True)  # the toy's masks cover the image
    assert masked.boxes.tolist() == [[0, 0, 60, 40]]
