"""The task of `compact`'s module: stored maps, jittered boxes, names, a pull to what was known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.conse import load_conse
from anyregion.compact.region_features import RegionFeatures, extract_region_features
from anyregion.compact.region_head import INPUTS, Calibration
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.compact.training.calibration import fit_scores, held_out_error
from anyregion.compact.training.checkpoint import save_region_head
from anyregion.compact.training.named_set import (
    NamedSet,
    check_features,
    jittered,
    named_set,
    random_boxes,
)
from anyregion.compact.training.region_config import RegionTaskConfig
from anyregion.compact.training.region_head_module import RegionHeadModule
from anyregion.compact.training.region_losses import (
    classification_loss,
    distillation_loss,
)
from anyregion.data.mirror import mirror_boxes
from anyregion.data.samplers import EpochSampler
from anyregion.data.store.store import Store
from anyregion.errors import InputError
from anyregion.evaluation.metrics.accuracy import accuracies, ranks_in_scores
from anyregion.regions import Regions
from anyregion.torch_utils.weights import fingerprint
from anyregion.training.config import LoopConfig
from anyregion.training.seeds import generator, seed_torch
from anyregion.training.task import ACCURACY_METRICS, Task


def build(settings: RegionTaskConfig, *, loop: LoopConfig) -> RegionTask:
    """Make the task: open the stores, read the names.

    Raises:
        InputError: stores that cannot be had, or were made by other eyes.
    """
    bridge = load_conse()
    words = CompactTextEncoder(bridge)
    seed_torch(loop.seed, "weights")
    module = RegionHeadModule(settings.module)
    stores = [Store(folder) for folder in settings.stores]
    validation = Store(settings.validation)
    check_features([*stores, validation], validation)
    for store in stores:
        if settings.flip and not store.info.mirrored:
            raise InputError(
                f"{store.folder}: made without mirror images: set compact.flip to 0, or make it "
                "anew"
            )
    power = settings.objective.class_power
    sets = [named_set(s, words, unseen=settings.unseen, class_power=power) for s in stores]
    return RegionTask(module, sets, named_set(validation, words), settings, seed=loop.seed)


@dataclass(frozen=True)
class RegionItem:
    """One image of a step: of which data set, mirrored or not, and its place."""

    data: int
    image: int
    flipped: bool
    step: int
    place: int


@dataclass(frozen=True, eq=False)
class RegionExample:
    """The evidence of labelled regions and then of random ones; rows of the former's names."""

    data: int
    evidence: RegionFeatures
    labels: Tensor


class RegionTask(Task):
    """Trains a `RegionHeadModule`. See `training.task.Task`.

    Args:
        module: what learns.
        sets: the data sets.
        validation: not trained on; scores are calibrated on it too.
        settings: see `RegionTaskConfig`.
        seed: of what is drawn.
    """

    metrics = ACCURACY_METRICS

    def __init__(
        self,
        module: RegionHeadModule,
        sets: Sequence[NamedSet],
        validation: NamedSet,
        settings: RegionTaskConfig,
        *,
        seed: int,
    ) -> None:
        self.module: nn.Module = module
        self.sets, self.validation = tuple(sets), validation
        self.settings, self.seed = settings, seed
        self.bridge = load_conse()
        self._measured: tuple[str, NDArray[np.float32], NDArray[np.int64]] | None = None
        self._images = [(number, int(i)) for number, s in enumerate(sets) for i in s.images]
        self._sampler = EpochSampler(np.ones(len(self._images)), seed)
        self._matrices = [torch.from_numpy(s.matrix) for s in sets]
        self._weights = [torch.from_numpy(s.weights) for s in sets]

    def plan(self, step: int) -> list[RegionItem]:
        """See `Task`."""
        batch = self.settings.batch
        items = []
        for place, drawn in enumerate(self._sampler.draw(step * batch, batch)):
            number, image = self._images[drawn]
            flipped = bool(generator(self.seed, "flip", step, place).random() < self.settings.flip)
            items.append(RegionItem(number, image, flipped, step, place))
        return items

    def load(self, item: RegionItem) -> RegionExample:
        """See `Task`."""
        data, objective = self.sets[item.data], self.settings.objective
        boxes, labels, size = data.labelled(item.image)
        if item.flipped:
            boxes = mirror_boxes(boxes, size[1])
        draw = generator(self.seed, "boxes", item.step, item.place)
        boxes = jittered(boxes, size, self.settings.jitter, draw)
        if objective.distillation:
            boxes = np.concatenate([boxes, random_boxes(objective.random_boxes, size, draw)])
        maps = data.maps(item.image, flipped=item.flipped)
        evidence = extract_region_features(maps, size, Regions.from_boxes(boxes), self.bridge)
        return RegionExample(item.data, evidence, torch.from_numpy(labels))

    def losses(self, module: nn.Module, examples: Sequence[RegionExample]) -> dict[str, Tensor]:
        """See `Task`; `naming` and `distillation` are the parts of `loss`."""
        objective = self.settings.objective
        device = next(self.module.parameters()).device
        evidence = [_tensors(e.evidence, device) for e in examples]
        naming, pull = [], []
        for found, seen, example in zip(module(evidence), evidence, examples, strict=True):
            found, count = found.float(), len(example.labels)
            naming.append(
                classification_loss(
                    found[:count],
                    example.labels.to(device),
                    self._matrices[example.data].to(device),
                    self._weights[example.data].to(device),
                    scale=objective.scale,
                )
            )
            conse = seen[INPUTS.index("conse")]
            pull.append(
                distillation_loss(found, conse, count, labelled_share=objective.labelled_share)
            )
        named, pulled = torch.stack(naming), torch.stack(pull)
        loss = named + objective.distillation * pulled
        return {"loss": loss, "naming": named.detach(), "distillation": pulled.detach()}

    def describe(self, item: RegionItem) -> str:
        """See `Task`."""
        name = self.sets[item.data].reader.annotations.file_names[item.image]
        return f"{name}{' (mirrored)' if item.flipped else ''}"

    def validate(self, module: nn.Module) -> dict[str, float]:
        """See `Task`: all names of the validation data asked, none favoured for being new."""
        cosines, labels = self._measure(module)
        return accuracies(ranks_in_scores(cosines, labels), labels)

    def save(self, module: nn.Module, folder: Path) -> None:
        """The graph, the numbers that belong to it, the weights. See `Task`."""
        if not isinstance(module, RegionHeadModule):
            raise TypeError(f"not a RegionHeadModule: {type(module).__name__}")
        cosines, labels = self._measure(module)
        scale, bias = fit_scores(cosines, labels)
        names = [name for s in self.sets for name in s.taking_part]
        numbers = Calibration(
            trained=np.concatenate([s.matrix for s in self.sets]),
            names=tuple(names),
            novelty=self.settings.novelty,
            scale=scale,
            bias=bias,
        )
        figures = accuracies(ranks_in_scores(cosines, labels), labels)
        figures["calibration_error"] = held_out_error(cosines, labels)
        save_region_head(module, folder, numbers, licence=self.settings.licence, figures=figures)

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        lines = {
            f"data {number}": f"{len(s.images):,} images, {len(s.matrix)} names"
            for number, s in enumerate(self.sets, start=1)
        }
        left_out = self.settings.unseen or "none"
        return {
            **lines,
            "validation": f"{len(self.validation.images):,} images",
            "terms of the data": self.settings.terms,
            "classes left out": left_out,
            "frozen": "compact's eyes and words",
        }

    def _measure(self, module: nn.Module) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cosines `(N, C)` of all validation regions with all names, and the right ones."""
        weights = fingerprint(module.state_dict().items())
        if self._measured is not None and self._measured[0] == weights:
            return self._measured[1:]  # what was validated is saved next
        data = self.validation
        device = next(module.parameters()).device
        found, labels = [], []
        with torch.inference_mode():
            for image in data.images.tolist():
                boxes, right, size = data.labelled(image)
                evidence = extract_region_features(
                    data.maps(image), size, Regions.from_boxes(boxes), self.bridge
                )
                (rows,) = module([_tensors(evidence, device)])
                found.append(F.normalize(rows.float(), dim=-1).cpu())
                labels.append(right)
        cosines: NDArray[np.float32] = torch.cat(found).numpy() @ data.matrix.T
        self._measured = (weights, cosines, np.concatenate(labels))
        return self._measured[1:]


def _tensors(evidence: RegionFeatures, device: torch.device) -> list[Tensor]:
    """The arguments of `RegionHeadModule.embed`."""
    return [torch.from_numpy(getattr(evidence, name)).to(device) for name in INPUTS]
