"""Compare the package with a RegionSpot fixture: `python check_regionspot.py FIXTURE_DIR`.

Every array of `outputs.npz` is computed through the package's public classes and compared. The
judge is the fixture's own: `|computed - reference| <= max(10 x floor, 1e-6 x max|reference|)`;
masks may differ in as many pixels as lie next to zero. Prints the worst array; exits 1 if it is
beyond.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anyregion import Recognizer, Regions, Vocabulary
from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.features import Features
from anyregion.data.region_dataset import region_dataset
from anyregion.localizers.prompts import prompt_batches
from anyregion.localizers.segmenter import PromptableSegmenter
from anyregion.localizers.square import resize_to_frame, to_frame
from anyregion.masks import decode_mask
from anyregion.regionspot.adapter import Adapter
from anyregion.regionspot.checkpoint import load_published, read_checkpoint
from anyregion.regionspot.encoder import EncodedImage, RegionSpotEncoder
from anyregion.regionspot.losses import focal_losses, region_logits
from anyregion.regionspot.pretrained import Pretrained
from anyregion.regionspot.training.config import StepConfig
from anyregion.regionspot.training.task import RegionSpotTask
from anyregion.scoring import logits
from anyregion.training.config import LoopConfig, OptimizerConfig, ScheduleConfig
from anyregion.training.distributed import start
from anyregion.training.optimizers import build_optimizer
from anyregion.training.prefetch import StepExamples
from anyregion.training.step import Stepper
from anyregion.vlms.preprocess import resize_positions
from anyregion.vocabulary import EncodedVocabulary, encode_vocabulary

Named = Iterator[tuple[str, NDArray[Any]]]
EVAL_MASK_PIXELS = 100


class Fixture:
    """The files of a fixture folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.floor = json.loads((folder / "noise_floor.json").read_text())
        self.inputs = {k.removeprefix("in__"): v for k, v in np.load(folder / "inputs.npz").items()}
        self.outputs = dict(np.load(folder / "outputs.npz"))
        self.image_size = int(self.config["config"]["clip_input_size"])

    def tolerance(self, name: str) -> float:
        floor = self.floor.get(name, {}).get("abs", 0.0)
        return max(10 * floor, 1e-6 * float(np.abs(self.outputs[name]).max(initial=0)))

    def scenario(self, name: str) -> tuple[Regions, bool]:
        """The prompts of a scenario, and whether three candidates were asked for."""
        i = self.inputs
        points, labels, boxes = i["points"], i["point_labels"], i["boxes"]
        ask = Regions.from_prompts
        return {
            "box": lambda: (ask(boxes=boxes), False),
            "point": lambda: (ask(points=[points], point_labels=[labels]), True),
            "point_single": lambda: (ask(points=[points[:1]], point_labels=[labels[:1]]), False),
            "pointbox": lambda: (
                ask(boxes=boxes[1:2], points=[points[:2]], point_labels=[labels[:2]]),
                True,
            ),
            "box_mask": lambda: (
                ask(boxes=boxes[:1], mask_logits=[self.outputs["box__low_res_logits"][0, 0]]),
                False,
            ),
            "boxes_multi": lambda: (ask(boxes=boxes[:2]), True),
            "mixed": lambda: (
                ask(
                    boxes=i["mixed_boxes"],
                    points=list(i["mixed_points"]),
                    point_labels=list(i["mixed_labels"]),
                ),
                False,
            ),
        }[name]()


def softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last axis."""
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def text_side(fixture: Fixture, encoder: RegionSpotEncoder, words: EncodedVocabulary) -> Named:
    """Names, templates, tokens, embeddings, scale."""
    text = encoder.text
    templates = fixture.config["templates"]
    yield "text_embeddings", words.matrix
    yield (
        "text_embedding_word0_all_templates",
        text.encode_text(words.vocabulary.prompts(templates)[0]),
    )
    yield "logit_scale", np.float32(encoder.logit_scale)
    raw = [t.format(name) for name in fixture.config["vocabulary"] for t in templates]
    shape = fixture.outputs["text_token_ids"].shape
    yield "text_token_ids", np.asarray(text.tokenize(raw)).reshape(shape)


def image_side(
    fixture: Fixture, encoder: RegionSpotEncoder, image: NDArray[np.uint8], encoded: EncodedImage
) -> Named:
    """What both frozen models see, and what they make of it."""
    place = encoded.localized
    yield "sam_input_image_uint8", resize_to_frame(image, place.frame)
    yield "clip_input", encoder.vlm.preprocess([image], antialias=False).numpy()
    yield "sam_image_embedding", place.embedding.numpy()
    yield "clip_feature_map", encoded.features[None].numpy()
    model = encoder.localizer.backend.model
    yield (
        "sam_dense_positional_encoding",
        model.get_image_wide_positional_embeddings().detach().numpy(),
    )


def sparse_tokens(
    localizer: PromptableSegmenter, encoded: EncodedImage, regions: Regions
) -> NDArray[np.float32]:
    """The prompt encoder's tokens of regions that are all prompted alike, in one chunk."""
    (chunk,) = prompt_batches(
        regions,
        encoded.localized.frame,
        chunk=len(regions),
        low_side=localizer.low_side,
        device=localizer.device,
    )
    with torch.no_grad():
        return np.asarray(localizer.prompt_embeddings(chunk)[0])


def run_scenario(
    fixture: Fixture,
    name: str,
    encoder: RegionSpotEncoder,
    encoded: EncodedImage,
    words: EncodedVocabulary,
    image: NDArray[np.uint8],
) -> Named:
    """All arrays of one prompt scenario."""
    regions, multimask = fixture.scenario(name)
    result = encoder.localizer.tokens(encoded.localized, regions, multimask=multimask, masks=True)
    tokens_only = encoder.localizer.tokens(encoded.localized, regions, multimask=multimask)
    assert result.mask_scores is not None
    assert result.mask_logits is not None
    yield f"{name}__sparse_embeddings", sparse_tokens(encoder.localizer, encoded, regions)
    yield f"{name}__mask_tokens", result.tokens.numpy()
    yield f"{name}__mask_tokens", tokens_only.tokens.numpy()  # and on the way that decodes no masks
    yield f"{name}__low_res_logits", result.mask_logits.numpy()
    yield f"{name}__iou_predictions", result.mask_scores.numpy()
    # the fixture puts candidates first: (candidates, prompts, E)
    (embedded,) = encoder.embed_tokens([encoded], [result.tokens])
    embedded_np = embedded.transpose(0, 1).detach().numpy()
    yield f"{name}__region_embeddings", embedded_np
    scored = logits(embedded_np, words.matrix, scale=encoder.logit_scale)
    yield f"{name}__logits_per_image", scored
    probs = softmax(scored)
    probs = probs if len(probs) == 1 else probs.transpose(1, 0, 2)
    yield f"{name}__probs_all", probs
    yield f"{name}__class_index", probs[0].argmax(axis=-1)
    yield f"{name}__class_prob", probs[0].max(axis=-1)
    decoded = encoder.localizer.masks(encoded.localized, result.mask_logits)
    masks = np.array([[decode_mask(m) for m in row] for row in decoded])
    yield f"{name}__masks_shape", np.array(masks.shape)
    yield f"{name}__masks_packed", np.packbits(masks, axis=-1)
    # the face that users see gives the same: all candidates, best mask first
    recognizer = Recognizer(encoder, cache=None)
    recognizer.set_image(image)
    predictions = recognizer.predict(
        regions, words, top_k=len(words.vocabulary), multimask=multimask, masks=True
    )
    order = np.argsort(-result.mask_scores.numpy(), axis=1, kind="stable")
    unranked = np.empty((len(regions), result.tokens.shape[1], len(words.vocabulary)), np.float32)
    for i in range(len(predictions)):
        rank = i % result.tokens.shape[1]
        row = predictions.rows[i]
        unranked[row, order[row, rank], predictions.indices[i]] = predictions.scores[i]
    yield f"{name}__probs_all", unranked if multimask else unranked.transpose(1, 0, 2)


def run_eval(fixture: Fixture, encoder: RegionSpotEncoder, words: EncodedVocabulary) -> Named:
    """Two images in one batch, as the published evaluation does it."""
    images = [fixture.inputs["image"], fixture.inputs["image2"]]
    boxes2 = fixture.inputs["boxes2"]
    regions = [
        Regions.from_boxes(fixture.inputs["boxes"][: len(boxes2)]),
        Regions.from_boxes(boxes2),
    ]
    yield "eval__clip_input", encoder.vlm.preprocess(images, antialias=True).numpy()
    encoded = encoder.encode_images(images)
    framed = [to_frame(r.boxes, e.localized.frame) for e, r in zip(encoded, regions, strict=True)]
    yield "eval__boxes_sam_frame", np.stack(framed)
    embedded = encoder.embed_regions(encoded, regions, masks=True)
    scored = np.stack(
        [logits(e.embeddings, words.matrix, scale=encoder.logit_scale) for e in embedded]
    )
    yield "eval__logits_per_image", scored
    yield "eval__probs", softmax(scored)
    masks = np.array([[decode_mask(m)[None] for m in e.masks or ()] for e in embedded])
    yield "eval__masks_shape", np.array(masks.shape)
    yield "eval__masks_packed", np.packbits(masks, axis=-1)
    answers = Recognizer(encoder, cache=None).recognize(
        images, regions, words, top_k=len(words.vocabulary)
    )
    best = list(answers[0].top_pairs(900))
    yield "eval__image0_topk_score", np.array([p[2] for p in best], np.float32)
    yield "eval__image0_topk_class", np.array([p[1] for p in best])
    yield "eval__image0_topk_box", np.array([p[0] for p in best])


def run_train(fixture: Fixture, encoder: RegionSpotEncoder, words: EncodedVocabulary) -> Named:
    """Loss, gradients and four optimiser steps: the trainer's own task, objective and step."""
    classes = [fixture.inputs[f"train_classes_{i}"] for i in (0, 1)]
    images = [fixture.inputs["image"], fixture.inputs["image2"]]
    yield "train__clip_input", encoder.vlm.preprocess(images, antialias=True).numpy()
    maps = encoder.vlm.feature_map(images).tokens.numpy()
    tokens = [fixture.inputs[f"train_tokens_{i}"][:, 0] for i in (0, 1)]
    adapter = Adapter(replace(encoder.adapter.config, dropout=0.0))
    adapter.load_state_dict(encoder.adapter.state_dict())
    # the published reader shifts 1-based ids and leaves a 0 where it is (a fault not repeated)
    reader = FixtureReader([np.maximum(c - 1, 0) for c in classes], words, tokens, maps)
    task = RegionSpotTask(
        adapter,
        [region_dataset("fixture", reader, words)],
        scale=encoder.logit_scale,
        pretrained=Pretrained(adapter.config, encoder.localizer.name, encoder.vlm.name),
        step=StepConfig(batch=2, flip=0.0, fill="repeat"),
    )
    # an epoch is shuffled; the fixture's arrays are in the images' order
    items = sorted(task.plan(0), key=lambda item: item.image)
    examples = [task.load(item) for item in items]
    labels = torch.stack([e.labels for e in examples])
    stacked = torch.stack([e.tokens for e in examples])
    yield "train__mask_tokens", stacked[:, :, None].numpy()
    yield "train__labels", labels.numpy()
    features = torch.from_numpy(maps)
    embedded = adapter(stacked, features)
    scored = region_logits(embedded, torch.from_numpy(words.matrix), encoder.logit_scale)
    plain = focal_losses(scored, labels, alpha=-1).sum()
    loss = task.losses(adapter, examples)["loss"].sum()
    loss.backward()
    yield "train__region_embeddings", embedded.detach().numpy()
    yield "train__logits_per_image", scored.detach().numpy()
    yield "train__loss", loss.detach().numpy()
    yield "train__loss_alpha_disabled", plain.detach().numpy()
    names = [str(n).removeprefix("model.") for n in fixture.outputs["train__grad_names"]]
    gradients = {n: p.grad for n, p in adapter.named_parameters() if p.grad is not None}
    assert sorted(names) == sorted(gradients), "parameter names differ"
    yield "train__grad_norms", np.array([float(gradients[n].norm()) for n in names])
    yield "train__grad_to_clip_weight", gradients["to_clip.weight"].numpy()
    yield "train__grad_projector_weight", gradients["projector.weight"].numpy()
    total = sum(float((g.double() ** 2).sum()) for g in gradients.values()) ** 0.5
    yield "train__grad_total_norm", np.array(total)
    # 2.5e-5, decay 1e-4, gradients of length 1 and no schedule are what the fixture was made with
    config = LoopConfig(
        steps=4,
        over_images="sum",
        optimizer=OptimizerConfig(lr=2.5e-5, weight_decay=1e-4),
        schedule=ScheduleConfig(kind="constant"),
    )
    fabric, scaler = start(config)
    optimizer = build_optimizer(adapter, config.optimizer)
    module, wrapped = fabric.setup(adapter, optimizer)
    stepper = Stepper(fabric, task, module, wrapped, scaler, None, config)
    steps = [stepper.step(StepExamples(n, items, range(2), examples)) for n in range(4)]
    # the trainer's own, which torch sums in single precision, has to be this one
    assert abs(steps[0].grad_norm - total) <= 1e-5 * total, "gradient norm differs"
    yield "train__losses_4_steps", np.array([result.losses["loss"] for result in steps])
    yield "train__projector_bias_after_4_steps", adapter.projector.bias.detach().numpy()
    yield "train__to_clip_weight_after_4_steps", adapter.to_clip.weight.detach().numpy()


class FixtureReader:
    """The fixture's stored tokens and two feature maps, as a `FeatureReader`."""

    fingerprint = "fixture"

    def __init__(
        self,
        labels: list[NDArray[np.int64]],
        words: EncodedVocabulary,
        tokens: list[NDArray[np.float32]],
        maps: NDArray[np.float32],
    ) -> None:
        self.tokens, self.maps = tokens, maps
        names = words.vocabulary.names
        starts = np.cumsum([0, *map(len, labels)])
        rows = int(starts[-1])
        self.annotations = Annotations(
            Categories(np.arange(len(names)), names, ((),) * len(names), ("",) * len(names)),
            ("0", "1"),
            ("image", "image2"),
            np.full((2, 2), -1),
            starts,
            np.zeros((rows, 4)),
            np.concatenate(labels).astype(np.int64),
            np.zeros(rows, bool),
            np.zeros(rows),
            np.arange(rows),
        )

    def read(self, image: int, *, flipped: bool = False) -> Features:
        return {"tokens": self.tokens[image], "features": self.maps[image]}


def all_arrays(fixture: Fixture) -> Named:
    """Every array of `outputs.npz`, computed by the package."""
    published = load_published(
        fixture.folder / "checkpoint.pth", image_size=fixture.image_size, antialias=False
    )
    vocabulary = Vocabulary.from_names(
        fixture.config["vocabulary"], templates=fixture.config["templates"], cleaning="published"
    )
    words = encode_vocabulary(vocabulary, published.text, cache=None)
    yield from text_side(fixture, published, words)
    image = fixture.inputs["image"]
    (encoded,) = published.encode_images([image])
    yield from image_side(fixture, published, image, encoded)
    names = sorted({k.split("__")[0] for k in fixture.outputs if k.endswith("__mask_tokens")})
    for name in names:
        if name != "train":
            yield from run_scenario(fixture, name, published, encoded, words, image)
    evaluated = RegionSpotEncoder(published.localizer, published.vlm, published.adapter)
    yield from run_eval(fixture, evaluated, words)
    yield from run_train(fixture, evaluated, words)


def compare(fixture: Fixture, name: str, values: NDArray[Any]) -> tuple[float, float]:
    """Deviation relative to the tolerance (1 is the limit), and as it is."""
    reference = fixture.outputs[name]
    if name.endswith("__masks_packed"):
        scenario = name.split("__")[0]
        near = fixture.config["pixels_with_abs_logit_below_1e_3"].get(scenario, EVAL_MASK_PIXELS)
        differ = int(np.unpackbits(values ^ reference).sum())
        return differ / max(near, 1), float(differ)
    if values.shape != reference.shape:
        raise SystemExit(f"{name}: shape {values.shape}, but the reference has {reference.shape}")
    if not np.issubdtype(reference.dtype, np.floating):
        differ = int((values != reference).sum())
        return (float("inf") if differ else 0.0), float(differ)
    worst = float(np.abs(values.astype(np.float64) - reference).max(initial=0))
    tolerance = fixture.tolerance(name)
    return worst / tolerance if worst else 0.0, worst


def check_stripped(fixture: Fixture) -> None:
    """The adapter-only checkpoint holds the same adapter."""
    full = read_checkpoint(fixture.folder / "checkpoint.pth")
    stripped = read_checkpoint(fixture.folder / "checkpoint_adapter_only.pth")
    if stripped.sam is not None or stripped.clip is not None:
        raise SystemExit("checkpoint_adapter_only.pth holds more than the adapter")
    for name, tensor in full.adapter.items():
        if not torch.equal(tensor, stripped.adapter[name]):
            raise SystemExit(f"checkpoint_adapter_only.pth: {name} differs")


def grid_of(positions: NDArray[np.float32]) -> tuple[int, int]:
    """The square grid behind the class row."""
    side = round((len(positions) - 1) ** 0.5)
    return side, side


def check(folder: Path, *, verbose: bool = False) -> tuple[str, float]:
    """The worst array of a fixture, and its deviation relative to the tolerance.

    Raises:
        SystemExit: an array of the fixture that is not computed, or has another shape.
    """
    fixture = Fixture(folder)
    check_stripped(fixture)
    ratios: dict[str, float] = {"train__grad_names": 0.0}  # compared in run_train
    for name, values in all_arrays(fixture):
        ratio, worst = compare(fixture, name, np.asarray(values))
        ratios[name] = max(ratio, ratios.get(name, 0.0))
        if verbose:
            print(f"{ratio:8.3f}  {worst:.3g}  {name}")
    resized = dict(np.load(folder / "clip_pos_embed_resize.npz"))
    values = resize_positions(torch.from_numpy(resized["native"]), grid_of(resized["resized"]))
    worst = float(np.abs(values.numpy() - resized["resized"]).max())
    ratios["clip_pos_embed_resize"] = worst / (1e-6 * float(np.abs(resized["resized"]).max()))
    unchecked = fixture.outputs.keys() - ratios.keys()
    if unchecked:
        raise SystemExit(f"arrays that nothing computed: {sorted(unchecked)}")
    worst_name = max(ratios, key=lambda name: ratios[name])
    return worst_name, ratios[worst_name]


def main() -> int:
    arguments = [a for a in sys.argv[1:] if a != "-v"]
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    name, ratio = check(Path(arguments[0]), verbose="-v" in sys.argv)
    print(f"worst array: {name}, {ratio:.3f} of its tolerance")
    return int(ratio > 1)


if __name__ == "__main__":
    sys.exit(main())
