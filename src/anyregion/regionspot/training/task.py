"""Training RegionSpot's adapter on stored features: what a step reads, its losses, validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyregion.data.image_files import image_path
from anyregion.data.region_dataset import RegionDataset
from anyregion.data.samplers import EpochSampler, Mixture, repeat_factors
from anyregion.drawing.options import PictureOptions
from anyregion.drawing.picture import draw
from anyregion.errors import InputError
from anyregion.evaluation.metrics.accuracy import accuracies, ranks_in_scores
from anyregion.images import Pixels, read_image
from anyregion.regionspot.adapter import Adapter, stack_tokens
from anyregion.regionspot.losses import (
    cross_entropy_losses,
    distillation_losses,
    focal_losses,
    region_logits,
    repeated_rows,
)
from anyregion.regionspot.pretrained import Pretrained, write_folder
from anyregion.regionspot.training.config import ObjectiveConfig, StepConfig
from anyregion.training.seeds import generator
from anyregion.training.task import ACCURACY_METRICS, Task
from anyregion.vocabulary import Vocabulary

# validation images that are drawn: what fits beside each other in TensorBoard
PICTURES = 4


@dataclass(frozen=True, eq=False)
class RegionItem:
    """One image of a step.

    Attributes:
        dataset: position of its data set.
        image: position in its annotations.
        flipped: whether token and feature map are those of the mirror image.
        rows: which of its tokens, in order; some twice where images are filled by repeating.
    """

    dataset: int
    image: int
    flipped: bool
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RegionExample:
    """What a `RegionItem` holds: tokens `(N, W)`, features `(T, D)` or None, labels `(N,)`, and
    the teacher's embeddings `(N, E)` or None."""

    dataset: int
    tokens: Tensor
    features: Tensor | None
    labels: Tensor
    teacher: Tensor | None


@dataclass(frozen=True, eq=False)
class Validation:
    """A data set that is measured on.

    Attributes:
        dataset: its regions with a name of its vocabulary count. With a folder of images the first
            few are drawn.
        limit: no more than that many of its first images; 0 for all.
    """

    dataset: RegionDataset
    limit: int = 0

    @torch.no_grad()
    def measure(self, module: nn.Module, scale: float) -> dict[str, float]:
        """`top1`, `top5` and `mean_class_accuracy`, fractions of the regions, among all names."""
        ranks, labels = [], []
        images = self.dataset.images[: self.limit] if self.limit else self.dataset.images
        for image in images.tolist():
            of_image = self.dataset.labels_of(image)
            # all regions are scored, also those without a name: they attend to each other
            named = of_image >= 0
            logits = self._logits(module, image, scale).cpu().numpy()  # (N, C)
            ranks.append(ranks_in_scores(logits[named], of_image[named]))
            labels.append(of_image[named])
        return accuracies(np.concatenate(ranks), np.concatenate(labels))

    @torch.no_grad()
    def pictures(self, module: nn.Module, scale: float) -> Mapping[str, Pixels]:
        """The first images with their regions named."""
        dataset, pictures = self.dataset, {}
        if dataset.folder is None or dataset.vocabulary is None:
            return {}
        annotations, names = dataset.annotations, dataset.vocabulary.vocabulary.names
        for image in dataset.images[:PICTURES].tolist():
            best = self._logits(module, image, scale).softmax(dim=1).max(dim=1)
            records = [
                {
                    "id": int(annotations.region_ids[row]),
                    "box": annotations.boxes[row].tolist(),
                    "label": names[label],
                    "score": score,
                }
                for row, label, score in zip(
                    annotations.rows(image),
                    best.indices.tolist(),
                    best.values.tolist(),
                    strict=True,
                )
            ]
            pixels = read_image(image_path(dataset.folder, annotations.file_names[image]))
            picture = draw(pixels, records, PictureOptions(max_side=1024))
            pictures[Path(annotations.file_names[image]).stem] = np.array(picture)
        return pictures

    def _logits(self, module: nn.Module, image: int, scale: float) -> Tensor:
        """Of all regions of one image together, `(N, C)`."""
        arrays = self.dataset.reader.read(image)
        device = next(module.parameters()).device
        tokens = torch.from_numpy(np.array(arrays["tokens"])).to(device).float()  # (N, W)
        features = None
        if "features" in arrays:
            features = torch.from_numpy(np.array(arrays["features"])).to(device).float()[None]
        embeddings = module(tokens[None], features)[0]  # (N, E)
        return region_logits(embeddings, self._matrix.to(device), scale)

    @cached_property
    def _matrix(self) -> Tensor:
        return _matrix(self.dataset)


class RegionSpotTask(Task):
    """Trains an adapter on stored features. See `training.task.Task`.

    Args:
        adapter: what learns.
        datasets: a step's images are of one of them.
        scale: of the cosine, as the adapter will be used with.
        pretrained: what `save` states of it.
        validation: what `validate` measures on, or None.

    Raises:
        InputError: widths that do not fit each other, naming them.
    """

    def __init__(
        self,
        adapter: Adapter,
        datasets: Sequence[RegionDataset],
        *,
        scale: float,
        pretrained: Pretrained,
        objective: ObjectiveConfig | None = None,
        step: StepConfig | None = None,
        seed: int = 0,
        validation: Validation | None = None,
    ) -> None:
        self.module: nn.Module = adapter
        self.metrics = {} if validation is None else ACCURACY_METRICS
        self.adapter_config = adapter.config
        self.datasets = tuple(datasets)
        self.scale, self.pretrained, self.validation = scale, pretrained, validation
        self.objective, self.step = objective or ObjectiveConfig(), step or StepConfig()
        self.seed = seed
        self._mixture = Mixture([data.ratio for data in datasets], seed)
        # a sampler of its own for each data set, with the data set's number in its seed
        self._samplers = [
            EpochSampler(
                repeat_factors(data.annotations, data.repeat_threshold)[data.images], seed, number
            )
            for number, data in enumerate(datasets)
        ]
        self._matrices = [_matrix(data) for data in datasets]
        for data, matrix in zip(datasets, self._matrices, strict=True):
            self._check_widths(data, matrix)

    def plan(self, step: int) -> list[RegionItem]:
        """See `Task`."""
        config = self.step
        number, earlier_steps = self._mixture.at(step)
        data = self.datasets[number]
        positions = self._samplers[number].draw(earlier_steps * config.batch, config.batch)
        items = []
        for place, position in enumerate(positions):
            random = generator(self.seed, "item", step, place)
            flipped = bool(random.random() < config.flip)
            image = int(data.images[position])
            rows = np.flatnonzero(data.labels_of(image) >= 0)
            if config.max_regions is not None and len(rows) > config.max_regions:
                rows = np.sort(random.choice(rows, config.max_regions, replace=False))
            items.append(RegionItem(number, image, flipped, rows))
        if config.fill == "repeat":
            # as published: no padding, but regions of small images count several times
            most = max(len(item.rows) for item in items)
            items = [
                RegionItem(i.dataset, i.image, i.flipped, i.rows[repeated_rows(len(i.rows), most)])
                for i in items
            ]
        return items

    def load(self, item: RegionItem) -> RegionExample:
        """See `Task`. What is stored stays half precision until it is on the device."""
        data = self.datasets[item.dataset]
        arrays = data.reader.read(item.image, flipped=item.flipped)
        labels = data.labels_of(item.image)
        # a store of other annotations would pair tokens with the wrong labels
        if len(arrays["tokens"]) != len(labels):
            raise InputError(
                f"{self.describe(item)}: {len(arrays['tokens'])} tokens for {len(labels)} regions"
            )
        # copies: what a reader returns may be a view of a mapped file
        features = teacher = None
        if self.adapter_config.use_features:
            features = torch.from_numpy(np.array(arrays["features"]))  # (T, D)
        if self.objective.distillation:
            teacher = torch.from_numpy(np.array(arrays["teacher"][item.rows]))  # (N, E)
        return RegionExample(
            dataset=item.dataset,
            tokens=torch.from_numpy(np.array(arrays["tokens"][item.rows])),  # (N, W)
            features=features,
            labels=torch.from_numpy(labels[item.rows]),  # (N,)
            teacher=teacher,
        )

    def losses(self, module: nn.Module, examples: Sequence[RegionExample]) -> dict[str, Tensor]:
        """See `Task`; `naming` and `distillation` are the parts of `loss`."""
        device, number = next(self.module.parameters()).device, examples[0].dataset
        tokens, groups = stack_tokens([e.tokens[:, None].to(device).float() for e in examples])
        labels = nn.utils.rnn.pad_sequence(  # (B, N); -1 counts for nothing
            [e.labels.to(device) for e in examples], batch_first=True, padding_value=-1
        )
        features = None
        if self.adapter_config.use_features:
            maps = [e.features for e in examples if e.features is not None]
            features = torch.stack(maps).to(device).float()  # (B, T, D)
        # once: a vocabulary of thousands of names is megabytes
        self._matrices[number] = self._matrices[number].to(device)
        embeddings = module(tokens, features, groups=groups).float()  # (B, N, E)
        logits = region_logits(embeddings, self._matrices[number], self.scale)  # (B, N, C)
        if self.objective.kind == "focal":
            alpha, gamma = self.objective.alpha, self.objective.gamma
            naming = focal_losses(logits, labels, alpha=alpha, gamma=gamma)  # (B,)
        else:
            naming = cross_entropy_losses(logits, labels)
        if not self.objective.distillation:
            return {"loss": naming}
        teacher = nn.utils.rnn.pad_sequence(  # (B, N, E)
            [e.teacher.to(device).float() for e in examples if e.teacher is not None],
            batch_first=True,
        )
        distillation = distillation_losses(embeddings, teacher, labels)
        loss = naming + self.objective.distillation * distillation
        return {"loss": loss, "naming": naming.detach(), "distillation": distillation.detach()}

    def describe(self, item: RegionItem) -> str:
        """See `Task`."""
        return self.datasets[item.dataset].describe(item.image, flipped=item.flipped)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """See `Task`."""
        return {} if self.validation is None else self.validation.measure(module, self.scale)

    def pictures(self, module: nn.Module) -> Mapping[str, Pixels]:
        """See `Task`."""
        return {} if self.validation is None else self.validation.pictures(module, self.scale)

    def save(self, module: nn.Module, folder: Path) -> None:
        """A folder for `load_recognizer`. See `Task`."""
        vocabularies = [d.vocabulary.vocabulary for d in self.datasets if d.vocabulary is not None]
        write_folder(
            folder,
            self.pretrained,
            module.state_dict(),
            terms="; ".join(f"{data.name}: {data.terms}" for data in self.datasets),
            vocabulary=Vocabulary.union(vocabularies),
        )

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        lines = {
            f"data: {data.name}": f"{len(data.images):,} images, {len(matrix):,} names, "
            f"share {data.ratio}; terms: {data.terms}"
            for data, matrix in zip(self.datasets, self._matrices, strict=True)
        }
        frozen = f"{self.pretrained.localizer} and {self.pretrained.vlm}"
        return {**lines, "frozen models": frozen, "licence of the weights": self.pretrained.licence}

    def _check_widths(self, data: RegionDataset, matrix: Tensor) -> None:
        config = self.adapter_config
        sample = data.reader.read(int(data.images[0]), flipped=self.step.flip > 0)
        needed = ["tokens"] + ["features"] * config.use_features
        needed += ["teacher"] * bool(self.objective.distillation)
        if missing := [name for name in needed if name not in sample]:
            raise InputError(f"{data.name}: holds no {', '.join(missing)}")
        widths = [
            ("tokens", config.token_width, sample["tokens"].shape[-1]),
            ("words", config.embed_width, matrix.shape[-1]),
        ]
        if config.use_features:
            widths.append(("feature map", config.feature_width, sample["features"].shape[-1]))
        for part, configured, width in widths:
            if configured != width:
                raise InputError(
                    f"{data.name}: {part} of width {width}; regionspot.adapter says {configured}"
                )


def _matrix(data: RegionDataset) -> Tensor:
    """`(C, E)` text embeddings of a data set's names."""
    if data.vocabulary is None:
        raise InputError(f"{data.name}: has no vocabulary to name regions with")
    return torch.from_numpy(np.array(data.vocabulary.matrix, dtype=np.float32))
