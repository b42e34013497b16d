"""The training of the region head: stored maps, jittered boxes, names, a pull to ConSE's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.calibration import Calibration
from anyregion.compact.conse import WIDTH, load_conse
from anyregion.compact.image_encoder import FeaturePyramid
from anyregion.compact.region_head import INPUTS, extract_region_features
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.compact.training.checkpoint import save_region_head, unwrapped
from anyregion.compact.training.confidence_fit import fit_calibration, with_known_regions
from anyregion.compact.training.dataset import describe_datasets, read_pyramid
from anyregion.compact.training.losses import classification_loss, distillation_loss
from anyregion.compact.training.region_config import RegionTaskConfig
from anyregion.compact.training.region_head_module import RegionHeadModule
from anyregion.data.region_dataset import RegionDataset
from anyregion.data.samplers import EpochSampler
from anyregion.errors import InputError
from anyregion.evaluation.metrics.accuracy import accuracies, ranks_in_scores
from anyregion.evaluation.regions.right_names import load_right_names
from anyregion.evaluation.regions.vocabulary_subsets import unrelated_names
from anyregion.io.vocabulary import load_vocabulary
from anyregion.model_card import ModelCard
from anyregion.regions import Boxes
from anyregion.torch_utils.weights import fingerprint
from anyregion.training.seeds import generator, seed_torch
from anyregion.training.task import ACCURACY_METRICS, Task
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, encode_vocabulary, name_key

# names that scores are calibrated beside, evenly from the built-in lists
DISTRACTORS = 400
SMALLEST_RANDOM = 16.0  # pixels a side; a smaller box shows nothing that could be kept


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
        stored: rows of the built-in head's stored regions, drawn for this image, where training
            begins at that head.
        distractors: `(D, 384)`, names that are right of no region of the image.
    """

    dataset: int
    features: list[Tensor]
    labels: Tensor
    stored: Tensor | None = None
    distractors: Tensor | None = None


class RegionTask(Task):
    """Trains a `RegionHeadModule`. See `training.task.Task`.

    Args:
        datasets: what it learns from, each with its own vocabulary.
        validation: not trained on; scores are calibrated on it too.
        seed: of everything random, the head's first weights among it.
        encoder: the graph of the image encoder, where it is another than the built-in one.
    """

    metrics = ACCURACY_METRICS

    def __init__(
        self,
        datasets: Sequence[RegionDataset],
        *,
        config: RegionTaskConfig,
        validation: RegionDataset,
        seed: int,
        encoder: Path | None = None,
    ) -> None:
        self.config, self.seed, self.encoder = config, seed, encoder
        self.datasets, self.validation = tuple(datasets), validation
        seed_torch(seed, "weights")
        self.module: nn.Module = self._first_module()
        self.conse = load_conse() if encoder is None else None
        self._measured: (
            tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]] | None
        ) = None
        self._images = [(number, int(i)) for number, d in enumerate(datasets) for i in d.images]
        self._sampler = EpochSampler(np.ones(len(self._images)), seed)
        # (C, 384) and (C,) of each data set
        self._matrices = [torch.from_numpy(named_vocabulary(d).matrix) for d in datasets]
        self._distractor_pool = self._embed_distractors()  # (D, 384)
        power = config.objective.class_power
        self._weights = [torch.from_numpy(_class_weights(d, power)) for d in datasets]

    def _first_module(self) -> nn.Module:
        """The head as training begins."""
        return RegionHeadModule(self.config.module)

    @property
    def _random_boxes(self) -> int:
        """How many random boxes an image has, whose answers are pulled somewhere."""
        objective = self.config.objective
        return objective.random_boxes if objective.distillation else 0

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
        dataset = self.datasets[item.dataset]
        pyramid = self._pyramid(dataset, item.image, flipped=item.flipped)
        boxes, labels = dataset.labelled(item.image, flipped=item.flipped)
        random = generator(self.seed, "boxes", item.step, item.place)
        boxes = sample_boxes(
            boxes, pyramid.size, random, jitter=self.config.jitter, anywhere=self._random_boxes
        )
        features = extract_region_features(pyramid, boxes, self.conse)
        tensors = [torch.from_numpy(getattr(features, name)) for name in INPUTS]
        distractors = self._draw_distractors(item)
        return RegionExample(
            item.dataset, tensors, torch.from_numpy(labels), distractors=distractors
        )

    def _draw_distractors(self, item: RegionItem) -> Tensor | None:
        """Names beside an image's own in its cross-entropy, `(D, 384)`; None for none."""
        pool = self._distractor_pool
        if not len(pool):
            return None
        random = generator(self.seed, "distractors", item.step, item.place)
        most = min(self.config.objective.distractors, len(pool))
        count = round(np.expm1(random.uniform(0, np.log1p(most))))
        return torch.from_numpy(pool[random.choice(len(pool), count, replace=False)])

    def _pyramid(
        self, dataset: RegionDataset, image: int, *, flipped: bool = False
    ) -> FeaturePyramid:
        return read_pyramid(dataset, image, flipped=flipped, channels=self.config.module.channels)

    def losses(self, module: nn.Module, examples: Sequence[RegionExample]) -> dict[str, Tensor]:
        """See `Task`; `naming` and `distillation` are the parts of `loss`."""
        objective = self.config.objective
        device = next(self.module.parameters()).device
        features = [[tensor.to(device) for tensor in e.features] for e in examples]
        naming, distillation = [], []
        # image by image: each data set has its own vocabulary
        for embeddings, inputs, example in zip(module(features), features, examples, strict=True):
            embeddings, count = embeddings.float(), len(example.labels)
            naming.append(self._naming_loss(embeddings, example))
            conse = inputs[INPUTS.index("conse")]
            distillation.append(
                distillation_loss(embeddings, conse, count, labelled_share=objective.labelled_share)
            )
        by_image, pull = torch.stack(naming), torch.stack(distillation)  # (B,) both
        loss = by_image + objective.distillation * pull
        return {"loss": loss, "naming": by_image.detach(), "distillation": pull.detach()}

    def _naming_loss(self, embeddings: Tensor, example: RegionExample) -> Tensor:
        """The loss of an image's labelled regions, the first of `(N, 384)`, a scalar."""
        device = embeddings.device
        return classification_loss(
            embeddings[: len(example.labels)],
            example.labels.to(device),
            self._matrices[example.dataset].to(device),
            self._weights[example.dataset].to(device),
            scale=self.config.objective.scale,
            others=None if example.distractors is None else example.distractors.to(device),
        )

    def describe(self, item: RegionItem) -> str:
        """See `Task`."""
        return self.datasets[item.dataset].describe(item.image, flipped=item.flipped)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """See `Task`: among all names of the validation data, as the saved folder names them."""
        return self._accuracies(module, self.validation)

    def save(self, module: nn.Module, folder: Path) -> None:
        """The graph, the numbers that belong to it, the weights. See `Task`."""
        embeddings, conse, labels = self._validation_embeddings(module)
        calibration, error = fit_calibration(
            self._unfitted_calibration(),
            embeddings,
            conse,
            self._trained_rows(labels),
            self._distractors,
            seed=self.seed,
        )
        save_region_head(
            unwrapped(module, RegionHeadModule),
            folder,
            calibration,
            card=ModelCard(
                licence=self.config.licence,
                terms="; ".join(dict.fromkeys(d.terms for d in self.datasets)),
                origin=f"trained on {sum(len(s.images) for s in self.datasets):,} images",
            ),
            metrics={**self.validate(module), "ece": error, **self._further_metrics(module)},
            vocabulary=self._known_names(),
            encoder=self.encoder,
        )

    def _known_names(self) -> Vocabulary:
        """The names that the folder gives where none are asked for: those of the data, or a file's.

        Raises:
            InputError: `names` is no file of names.
        """
        if self.config.names is None:
            listed = {
                name_key(name): name
                for d in reversed(self.datasets)
                for name in named_vocabulary(d).vocabulary.names
            }
            return Vocabulary.from_names(list(listed.values()))
        names = load_vocabulary(self.config.names)
        if not isinstance(names, Vocabulary):
            raise InputError(f"compact.names: {self.config.names} is encoded: give names")
        return names

    def _trained_names(self) -> dict[str, tuple[str, NDArray[np.float32]]]:
        """By key every trained name once, with the first data set's embedding of it."""
        return {
            name_key(name): (name, row)
            for d in reversed(self.datasets)
            for name, row in zip(
                named_vocabulary(d).vocabulary.names, named_vocabulary(d).matrix, strict=True
            )
        }

    def _further_metrics(self, module: nn.Module) -> dict[str, float]:
        """What else is saved of a module that is trained."""
        return {}

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        return {
            **describe_datasets(self.datasets),
            "validation": f"{len(self.validation.images):,} images",
            "classes left out": self.config.unseen or "none",
            "frozen": "compact's image encoder and text encoder"
            if self.encoder is None
            else f"image encoder: {self.config.image_encoder}; compact's text encoder",
        }

    def _embed_distractors(self) -> NDArray[np.float32]:
        """Text embeddings `(D, 384)` of the names that training draws distractors from."""
        if not self.config.objective.distractors:
            return np.zeros((0, WIDTH), dtype=np.float32)
        trained = self._trained_names()
        names = unrelated_names(Vocabulary.from_names([name for name, _ in trained.values()]))
        right = {
            name_key(word)
            for name, words in load_right_names("coco").classes.items()
            if name_key(name) in trained
            for word in words
        }
        return _embed_names([n for n in names if name_key(n) not in right])

    @cached_property
    def _distractors(self) -> NDArray[np.float32]:
        """Text embeddings `(D, 384)` of names that are right of no validation region."""
        names = unrelated_names(named_vocabulary(self.validation).vocabulary)
        # evenly from the lists: each may begin with one domain
        at = np.linspace(0, len(names) - 1, min(len(names), DISTRACTORS)).round().astype(int)
        return _embed_names([names[i] for i in at])

    def _unfitted_calibration(self) -> Calibration:
        """What is saved beside the module, before anything is fitted to the validation data."""
        trained = self._trained_names()
        return Calibration(
            trained=np.stack([row for _, row in trained.values()]),
            names=tuple(name for name, _ in trained.values()),
            gamma=self.config.novelty,
            scale=1.0,
            bias=0.0,
            cost=self.config.new_name_cost,
        )

    def _trained_rows(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of validation labels `(N,)` the rows among the trained names; -1: not trained.

        Of classes that were left out of training nothing may be learned from validation either.
        """
        position = {key: i for i, key in enumerate(self._trained_names())}
        names = named_vocabulary(self.validation).vocabulary.names
        rows: NDArray[np.int64] = np.array([position.get(name_key(n), -1) for n in names])[labels]
        return rows

    def _naming_calibration(self, module: nn.Module) -> Calibration:
        """What new names gain beside this module: as `save` writes it, the scores' fit left out."""
        embeddings, conse, labels = self._validation_embeddings(module)
        rows = self._trained_rows(labels)
        return with_known_regions(self._unfitted_calibration(), embeddings, conse, rows)

    def _accuracies(self, module: nn.Module, dataset: RegionDataset) -> dict[str, float]:
        """How well a data set's regions are named among all of its names.

        New names gain what they gain in `recognize` and `evaluate`: the figures are the same.
        """
        if dataset is self.validation:
            embeddings, _, labels = self._validation_embeddings(module)
        else:
            embeddings, _, labels = self._embeddings(module, dataset)
        calibration = self._naming_calibration(module)
        regions = calibration.stack_regions(embeddings)  # (N, 388)
        cosines = regions @ calibration.stack_names(named_vocabulary(dataset).matrix).T  # (N, C)
        return accuracies(ranks_in_scores(cosines, labels), labels)

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
                pyramid = self._pyramid(dataset, image)
                features = extract_region_features(pyramid, boxes, self.conse)
                inputs = [torch.from_numpy(getattr(features, n)).to(device) for n in INPUTS]
                embeddings.append(F.normalize(module([inputs])[0].float(), dim=-1).cpu().numpy())
                conse.append(features.conse)
                labels.append(rows)
        return np.concatenate(embeddings), np.concatenate(conse), np.concatenate(labels)


def _embed_names(names: Sequence[str]) -> NDArray[np.float32]:
    """Text embeddings `(C, 384)` of length 1."""
    vocabulary = Vocabulary.from_names(names)
    return encode_vocabulary(vocabulary, CompactTextEncoder(), cache=None).matrix


def named_vocabulary(dataset: RegionDataset) -> EncodedVocabulary:
    """`C` names and the `(C, 384)` matrix of their text embeddings, of length 1."""
    if dataset.vocabulary is None:
        raise InputError(f"{dataset.name}: the region head is trained on names; there are none")
    return dataset.vocabulary


def _class_weights(dataset: RegionDataset, power: float) -> NDArray[np.float32]:
    """`(C,)`: a class of n regions weighs n to the minus `power`; 1 on average over the regions."""
    labels, classes = dataset.labels, len(named_vocabulary(dataset).matrix)
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
