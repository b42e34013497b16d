"""The training of the region head: stored maps, jittered boxes, names, a pull to ConSE's answer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.conse import load_conse
from anyregion.compact.region_head import (
    HIGHEST_GAIN,
    INPUTS,
    Calibration,
    extract_region_features,
)
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.compact.training.checkpoint import save_region_head, unwrapped
from anyregion.compact.training.confidence_fit import fit_calibration
from anyregion.compact.training.dataset import (
    StoreConfig,
    check_mirrored,
    describe_datasets,
    open_named_dataset,
    open_stores,
    read_pyramid,
)
from anyregion.compact.training.losses import classification_loss, distillation_loss
from anyregion.compact.training.region_head_module import RegionHeadConfig, RegionHeadModule
from anyregion.compact.training.start import KeptRegions, load_kept_regions, starting_module
from anyregion.data.region_dataset import RegionDataset
from anyregion.data.samplers import EpochSampler
from anyregion.errors import InputError
from anyregion.evaluation.metrics.accuracy import accuracies, ranks_in_scores
from anyregion.evaluation.regions.vocabulary_subsets import unrelated_names
from anyregion.model_card import ModelCard
from anyregion.regions import Boxes
from anyregion.torch_utils.weights import fingerprint
from anyregion.training.config import LoopConfig
from anyregion.training.seeds import generator, seed_torch
from anyregion.training.task import ACCURACY_METRICS, Task
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, encode_vocabulary, name_key

# names that scores are calibrated beside, evenly from the built-in lists
DISTRACTORS = 400
ADAPTER = 384  # hidden width of a new adapter, where none is stated
KEPT_AN_IMAGE = 16  # stored regions beside each image of a step
SMALLEST_RANDOM = 16.0  # pixels a side; a smaller box shows nothing that could be kept


@dataclass(frozen=True)
class RegionObjective:
    """What the region head is trained for.

    Attributes:
        scale: of the cosines in the cross-entropy.
        class_power: a class of n regions weighs n to the minus this; 0 treats regions alike.
        distillation: pull of random boxes towards the training-free answer (1 - cosine): it keeps
            the names that are never trained.
        labelled_share: of that pull, on labelled regions.
        random_boxes: how many an image.
        keep: where training begins at the built-in head: pull of its stored regions towards its
            answers (1 - cosine).
        keep_here: the same, of random boxes of the images trained on; `distillation` and
            `labelled_share` have no say then.
    """

    scale: float = 20.0
    class_power: float = 0.3
    distillation: float = 1.0
    labelled_share: float = 0.1
    random_boxes: int = 8
    keep: float = 2.0
    keep_here: float = 0.2

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"objective.scale must be above 0, not {self.scale}")
        if self.keep < 0 or self.keep_here < 0:
            raise InputError("objective.keep and objective.keep_here are 0 or more")
        if self.distillation and self.random_boxes < 1:
            raise InputError("objective.distillation needs random_boxes of at least 1")


@dataclass(frozen=True)
class RegionTaskConfig:
    """Training `compact`'s region head on stored features.

    Attributes:
        data: the data sets, each with its own vocabulary; an image of any is as likely as one of
            any other.
        validation: another one, for metrics and the calibration of scores.
        unseen: classes left out of training, by name, or `every:STEP:FIRST` by position in the
            order of ids (`every:4:1`: 1, 5, 9, ...); empty for none.
        batch: images a step.
        flip: chance of the mirror image.
        jitter: how far each side of a box moves at most, as a fraction of the box.
        novelty: the most that names unlike all that were trained gain, in cosine, so as not to
            drown under those (see `compact.region_head`).
        new_name_cost: share of the held-out regions of trained classes, named rightly, that may be
            called by a new name for that; chosen on validation data with `unseen` classes left out
            of training.
        module: sizes; where training begins at the built-in head, of its adapter alone.
        objective: losses.
        start: `none` trains a new head; `shipped` begins at the built-in one, which is frozen, and
            learns what is added to its answers; the folder of a head trained so goes on from it.
        keep_validation: where it begins at the built-in head: a store whose classes are to be named
            as well as before, measured before and after; None for none.
        licence: under which the weights may be used.
    """

    data: tuple[StoreConfig, ...]
    validation: StoreConfig
    unseen: str = ""
    batch: int = 8
    flip: float = 0.5
    jitter: float = 0.1
    novelty: float = 0.2
    new_name_cost: float = 0.045
    module: RegionHeadConfig = field(default_factory=RegionHeadConfig)
    objective: RegionObjective = field(default_factory=RegionObjective)
    licence: str = "not stated"
    start: str = "none"
    keep_validation: StoreConfig | None = None

    def __post_init__(self) -> None:
        if not self.data:
            raise InputError("compact.data: name at least one data set")
        if self.batch < 1 or not 0 <= self.flip <= 1 or not 0 <= self.jitter < 0.5:
            raise InputError("compact: batch from 1, flip from 0 to 1, jitter from 0 to below 0.5")
        if not 0 <= self.novelty <= HIGHEST_GAIN or not 0 <= self.new_name_cost < 1:
            raise InputError(
                f"compact: novelty from 0 to {HIGHEST_GAIN}, new_name_cost from 0 to below 1"
            )
        if self.start == "none" and self.keep_validation is not None:
            raise InputError("compact.keep_validation needs compact.start: shipped, or a folder")


def build(settings: RegionTaskConfig, *, loop: LoopConfig) -> RegionTask:
    """Make the task: open the stores, read the names.

    Raises:
        InputError: stores that cannot be had, or were made by another encoder.
    """
    text_encoder = CompactTextEncoder()
    kept = [settings.keep_validation] if settings.keep_validation else []
    validation, *stores = open_stores([settings.validation, *settings.data, *kept])
    kept_set = open_named_dataset(stores.pop(), text_encoder) if kept else None
    if settings.flip:
        check_mirrored(stores, "set compact.flip to 0, or make it anew")
    datasets = [
        open_named_dataset(store, text_encoder, unseen=settings.unseen, terms=data.terms)
        for store, data in zip(stores, settings.data, strict=True)
    ]
    validation_set = open_named_dataset(validation, text_encoder)
    return RegionTask(
        datasets, config=settings, validation=validation_set, seed=loop.seed, kept=kept_set
    )


@dataclass(frozen=True)
class RegionItem:
    """One image of a step: of which data set, mirrored or not, and its place in the step."""

    dataset: int
    image: int
    flipped: bool
    step: int
    place: int


@dataclass(frozen=True, eq=False)
class RegionExample:
    """One image, ready to learn from.

    Attributes:
        dataset: position of the data set.
        features: of labelled regions and then of random ones, in the order of `INPUTS`.
        labels: `(labelled,)` rows of the former's names.
        kept: rows of the stored regions of the built-in head, drawn for this image.
    """

    dataset: int
    features: list[Tensor]
    labels: Tensor
    kept: Tensor | None = None


class RegionTask(Task):
    """Trains a `RegionHeadModule`. See `training.task.Task`.

    Args:
        datasets: what it learns from, each with its own vocabulary.
        validation: not trained on; scores are calibrated on it too.
        seed: of everything random, the head's first weights among it.
        kept: measured on before and after, where training begins at the built-in head.
    """

    metrics = ACCURACY_METRICS

    def __init__(
        self,
        datasets: Sequence[RegionDataset],
        *,
        config: RegionTaskConfig,
        validation: RegionDataset,
        seed: int,
        kept: RegionDataset | None = None,
    ) -> None:
        self.config, self.seed = config, seed
        self._kept_validation = kept
        self._before: dict[str, float] = {}
        self._after: dict[str, float] = {}
        self.datasets, self.validation = tuple(datasets), validation
        seed_torch(seed, "weights")
        self.kept: KeptRegions | None = None
        self.module: nn.Module
        if config.start == "none":
            self.module = RegionHeadModule(config.module)
        else:
            sizes = config.module
            self.kept = load_kept_regions()
            self.module = starting_module(
                config.start, sizes.adapter or ADAPTER, sizes.adapter_dropout
            )
            self._start = copy.deepcopy(self.module).eval()
            if config.start != "shipped":
                with torch.no_grad():
                    answers = self.kept.answers + self._start([[self.kept.pooled]])[0]
                self.kept = replace(self.kept, answers=answers)
        self.conse = load_conse()
        self._measured: (
            tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]] | None
        ) = None
        self._images = [(number, int(i)) for number, d in enumerate(datasets) for i in d.images]
        self._sampler = EpochSampler(np.ones(len(self._images)), seed)
        # (C, 384) and (C,) of each data set
        self._matrices = [torch.from_numpy(_vocabulary(d).matrix) for d in datasets]
        power = config.objective.class_power
        self._weights = [torch.from_numpy(_class_weights(d, power)) for d in datasets]

    def plan(self, step: int) -> list[RegionItem]:
        """See `Task`."""
        batch = self.config.batch
        items = []
        for place, position in enumerate(self._sampler.draw(step * batch, batch)):
            number, image = self._images[position]
            # a stream of its own for every purpose: one more draw elsewhere changes nothing here
            flipped = bool(generator(self.seed, "flip", step, place).random() < self.config.flip)
            items.append(RegionItem(number, image, flipped, step, place))
        return items

    def load(self, item: RegionItem) -> RegionExample:
        """See `Task`."""
        dataset, objective = self.datasets[item.dataset], self.config.objective
        pyramid = read_pyramid(dataset, item.image, flipped=item.flipped)
        boxes, labels = dataset.labelled(item.image, flipped=item.flipped)
        random = generator(self.seed, "boxes", item.step, item.place)
        pull = objective.distillation if self.kept is None else objective.keep_here
        anywhere = objective.random_boxes if pull else 0
        boxes = sample_boxes(
            boxes, pyramid.size, random, jitter=self.config.jitter, anywhere=anywhere
        )
        features = extract_region_features(pyramid, boxes, self.conse)
        tensors = [torch.from_numpy(getattr(features, name)) for name in INPUTS]
        rows = None
        if self.kept is not None:
            draw = generator(self.seed, "kept", item.step, item.place)
            rows = torch.from_numpy(draw.choice(self.kept.trained, KEPT_AN_IMAGE))
        return RegionExample(item.dataset, tensors, torch.from_numpy(labels), rows)

    def losses(self, module: nn.Module, examples: Sequence[RegionExample]) -> dict[str, Tensor]:
        """See `Task`; `naming` and `distillation` are the parts of `loss`."""
        if self.kept is not None:
            return self._keeping_losses(module, examples, self.kept)
        objective = self.config.objective
        device = next(self.module.parameters()).device
        features = [[tensor.to(device) for tensor in e.features] for e in examples]
        naming, distillation = [], []
        # image by image: each data set has its own vocabulary
        for embeddings, inputs, example in zip(module(features), features, examples, strict=True):
            embeddings, count = embeddings.float(), len(example.labels)
            naming.append(
                classification_loss(
                    embeddings[:count],
                    example.labels.to(device),
                    self._matrices[example.dataset].to(device),
                    self._weights[example.dataset].to(device),
                    scale=objective.scale,
                )
            )
            conse = inputs[INPUTS.index("conse")]
            distillation.append(
                distillation_loss(embeddings, conse, count, labelled_share=objective.labelled_share)
            )
        by_image, pull = torch.stack(naming), torch.stack(distillation)  # (B,) both
        loss = by_image + objective.distillation * pull
        return {"loss": loss, "naming": by_image.detach(), "distillation": pull.detach()}

    def _keeping_losses(
        self, module: nn.Module, examples: Sequence[RegionExample], kept: KeptRegions
    ) -> dict[str, Tensor]:
        """Losses beside the built-in head: own names, and its answers elsewhere."""
        objective = self.config.objective
        device = next(self.module.parameters()).device
        self._start.to(device)
        images = [[tensor.to(device) for tensor in e.features] for e in examples]
        rows = torch.cat([e.kept for e in examples if e.kept is not None])
        # one call: several processes average the gradients of what one call returned
        *answers, added = module([*images, [kept.pooled[rows].to(device)]])
        start = kept.answers[rows].to(device)
        moved = 1 - F.cosine_similarity(start + added.float(), start, dim=-1)
        elsewhere = moved.reshape(len(examples), -1).mean(1)  # (B,)
        with torch.no_grad():
            before = self._start(images)
        naming, here = [], []
        for embeddings, first, example in zip(answers, before, examples, strict=True):
            embeddings, count = embeddings.float(), len(example.labels)
            naming.append(
                classification_loss(
                    embeddings[:count],
                    example.labels.to(device),
                    self._matrices[example.dataset].to(device),
                    self._weights[example.dataset].to(device),
                    scale=objective.scale,
                )
            )
            here.append(distillation_loss(embeddings, first, count, labelled_share=0.0))
        by_image, pull = torch.stack(naming), torch.stack(here)  # (B,) both
        loss = by_image + objective.keep * elsewhere + objective.keep_here * pull
        parts = {"naming": by_image, "kept": elsewhere, "kept_here": pull}
        return {"loss": loss, **{name: part.detach() for name, part in parts.items()}}

    def describe(self, item: RegionItem) -> str:
        """See `Task`."""
        return self.datasets[item.dataset].describe(item.image, flipped=item.flipped)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """See `Task`: among all names of the validation data, none favoured for being new."""
        cosines, labels = self._validation_cosines(module)
        return accuracies(ranks_in_scores(cosines, labels), labels)

    def notes(self, *, trained: bool = False) -> Sequence[str]:
        """Where training begins at the built-in head: how well it names, before and after."""
        if self.kept is None:
            return ()
        if not trained:
            self._before = self._measure(self._start)
            return ["before: " + _in_words(self._before)]
        return ["after: " + _in_words(self._after)] if self._after else ()

    def _measure(self, module: nn.Module) -> dict[str, float]:
        """Own names, what was kept of the built-in head's answers, and `keep_validation`."""
        values = {"top1": self.validate(module)["top1"], **self._agreement(module)}
        if self._kept_validation is not None:
            embeddings, _, labels = self._embeddings(module, self._kept_validation)
            cosines = embeddings @ _vocabulary(self._kept_validation).matrix.T
            values["keep_top1"] = accuracies(ranks_in_scores(cosines, labels), labels)["top1"]
        return values

    @torch.inference_mode()
    def _agreement(self, module: nn.Module) -> dict[str, float]:
        """Share of regions that keep the name, of the built-in 80, they had at the start.

        `kept` of random boxes of the validation images, `kept_stored` of stored regions that are
        not trained on.
        """
        kept = self.kept
        if kept is None:
            return {}
        device = next(module.parameters()).device
        rows = kept.held_out
        start = kept.answers[rows].to(device)
        added = module([[kept.pooled[rows].to(device)]])[0]
        stored = (kept.best(start + added) == kept.best(start)).float().mean()
        same = []
        dataset = self.validation
        self._start.to(device)
        for image in dataset.images.tolist():
            pyramid = read_pyramid(dataset, image)
            boxes = sample_boxes(
                np.zeros((0, 4)),
                pyramid.size,
                generator(self.seed, "kept", image),
                jitter=0.0,
                anywhere=self.config.objective.random_boxes,
            )
            features = extract_region_features(pyramid, boxes, self.conse)
            inputs = [torch.from_numpy(getattr(features, n)).to(device) for n in INPUTS]
            same.append(kept.best(module([inputs])[0]) == kept.best(self._start([inputs])[0]))
        return {"kept": float(torch.cat(same).float().mean()), "kept_stored": float(stored)}

    def save(self, module: nn.Module, folder: Path) -> None:
        """The graph, the numbers that belong to it, the weights. See `Task`."""
        embeddings, conse, labels = self._validation_embeddings(module)
        # every name once, with the first data set's embedding of it
        trained = {
            name_key(name): (name, row)
            for d in reversed(self.datasets)
            for name, row in zip(
                _vocabulary(d).vocabulary.names, _vocabulary(d).matrix, strict=True
            )
        }
        if self.kept is not None:  # still known: both are
            known = self.kept.calibration
            of_start = zip(known.names, known.trained, strict=True)
            trained |= {name_key(name): (name, row) for name, row in of_start}
        position = {key: i for i, key in enumerate(trained)}
        validation = _vocabulary(self.validation).vocabulary
        # of classes that were left out of training nothing may be learned here either
        rows = np.array([position.get(name_key(name), -1) for name in validation.names])[labels]
        calibration = Calibration(
            trained=np.stack([row for _, row in trained.values()]),
            names=tuple(name for name, _ in trained.values()),
            gamma=self.config.novelty,
            scale=1.0,
            bias=0.0,
            cost=self.config.new_name_cost,
        )
        calibration, error = fit_calibration(
            calibration, embeddings, conse, rows, self._distractors, seed=self.seed
        )
        metrics = {**self.validate(module), "ece": error}
        if self.kept is not None:
            self._after = self._measure(module)
            metrics |= {name: v for name, v in self._after.items() if name != "top1"}
        save_region_head(
            unwrapped(module, RegionHeadModule),
            folder,
            calibration,
            card=ModelCard(
                licence=self.config.licence,
                terms="; ".join(dict.fromkeys(d.terms for d in self.datasets)),
                origin=f"trained on {sum(len(s.images) for s in self.datasets):,} images",
            ),
            metrics=metrics,
        )

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        return {
            **describe_datasets(self.datasets),
            "validation": f"{len(self.validation.images):,} images",
            "classes left out": self.config.unseen or "none",
            "frozen": "compact's image encoder and text encoder"
            + ("" if self.kept is None else ", its region head but for an adapter"),
            **({} if self.kept is None else self._on_card()),
        }

    @cached_property
    def _distractors(self) -> NDArray[np.float32]:
        """Text embeddings `(D, 384)` of names that are right of no validation region."""
        names = unrelated_names(_vocabulary(self.validation).vocabulary)
        # evenly from the lists: each may begin with one domain
        at = np.linspace(0, len(names) - 1, min(len(names), DISTRACTORS)).round().astype(int)
        vocabulary = Vocabulary.from_names([names[i] for i in at])
        return encode_vocabulary(vocabulary, CompactTextEncoder(), cache=None).matrix

    def _on_card(self) -> dict[str, str]:
        lines = {"start": self.config.start}
        for when, values in (("before", self._before), ("after", self._after)):
            if values:
                lines[when] = _in_words(values)
        return lines

    def _validation_cosines(
        self, module: nn.Module
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cosines `(N, C)` of all validation regions with all names, and the right ones `(N,)`."""
        embeddings, _, labels = self._validation_embeddings(module)
        # plain cosines: what new names gain comes on top
        cosines: NDArray[np.float32] = embeddings @ _vocabulary(self.validation).matrix.T
        return cosines, labels

    def _validation_embeddings(
        self, module: nn.Module
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Embeddings and training-free answers `(N, 384)` of all validation regions, `(N,)` names.

        The embeddings have length 1, and the names are rows of the validation vocabulary.
        """
        weights = fingerprint(module.state_dict().items())
        if self._measured is None or self._measured[0] != weights:
            self._measured = (weights, *self._embeddings(module, self.validation))
        return self._measured[1:]  # what was validated is saved next

    def _embeddings(
        self, module: nn.Module, dataset: RegionDataset
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        device = next(module.parameters()).device
        embeddings, conse, labels = [], [], []
        with torch.inference_mode():
            for image in dataset.images.tolist():
                boxes, rows = dataset.labelled(image)
                pyramid = read_pyramid(dataset, image)
                features = extract_region_features(pyramid, boxes, self.conse)
                inputs = [torch.from_numpy(getattr(features, n)).to(device) for n in INPUTS]
                embeddings.append(F.normalize(module([inputs])[0].float(), dim=-1).cpu().numpy())
                conse.append(features.conse)
                labels.append(rows)
        return np.concatenate(embeddings), np.concatenate(conse), np.concatenate(labels)


def _in_words(values: Mapping[str, float]) -> str:
    words = {
        "top1": "own validation regions named rightly",
        "kept": "random boxes of its images that keep the built-in head's answer",
        "kept_stored": "stored regions that do",
        "keep_top1": "regions of keep_validation named rightly",
    }
    return ", ".join(f"{value:.1%} of {words[name]}" for name, value in values.items()).replace(
        " of own", " of the own"
    )


def _vocabulary(dataset: RegionDataset) -> EncodedVocabulary:
    """`C` names and the `(C, 384)` matrix of their text embeddings, of length 1."""
    if dataset.vocabulary is None:
        raise InputError(f"{dataset.name}: the region head is trained on names; there are none")
    return dataset.vocabulary


def _class_weights(dataset: RegionDataset, power: float) -> NDArray[np.float32]:
    """`(C,)`: a class of n regions weighs n to the minus `power`; 1 on average over the regions."""
    labels, classes = dataset.labels, len(_vocabulary(dataset).matrix)
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    weights = np.maximum(counts, 1.0) ** -power
    weights *= counts.sum() / (weights * counts).sum()
    single: NDArray[np.float32] = weights.astype(np.float32)
    return single


def sample_boxes(
    boxes: Boxes,
    size: tuple[int, int],
    random: np.random.Generator,
    *,
    jitter: float,
    anywhere: int,
) -> Boxes:
    """The labelled boxes of an image, jittered, and then random ones.

    Args:
        boxes: `(n, 4)` xyxy in pixels.
        size: height and width of the image.
        jitter: each side moves by up to this share of the box; a box left too thin stays.
        anywhere: how many random boxes: between two random points, at least 16 pixels a side.

    Returns:
        `(n + anywhere, 4)`.
    """
    height, width = size
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    # (n, 4), each side on its own
    moved = boxes + random.uniform(-jitter, jitter, boxes.shape) * sides
    moved = moved.clip(0, [width, height, width, height])
    thin = (moved[:, 2:] - moved[:, :2] < 1).any(axis=1)
    moved[thin] = boxes[thin]
    if not anywhere:
        return moved
    smallest = np.minimum(SMALLEST_RANDOM, [width, height])
    corners = np.sort(random.uniform(0, 1, (anywhere, 2, 2)), axis=1) * [width, height]
    low = np.minimum(corners[:, 0], [width, height] - smallest)
    high = np.maximum(corners[:, 1], low + smallest)
    return np.concatenate([moved, np.concatenate([low, high], axis=1)])
