"""The training of the region head from the built-in one: own names beside those it knows.

The built-in head is frozen, and an adapter learns what is added to its answers. Two pulls keep its
answers where own names have no say: on stored regions that it was trained on, and on random boxes
of the own images.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.calibration import Calibration
from anyregion.compact.region_head import INPUTS, extract_region_features
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.compact.training.dataset import (
    check_mirrored,
    open_named_dataset,
    open_stores,
    read_pyramid,
)
from anyregion.compact.training.image_encoder import with_image_encoder
from anyregion.compact.training.losses import distillation_loss
from anyregion.compact.training.region_config import RegionTaskConfig
from anyregion.compact.training.region_task import (
    RegionExample,
    RegionItem,
    RegionTask,
    sample_boxes,
)
from anyregion.compact.training.start import (
    load_kept_regions,
    starting_calibration,
    starting_module,
)
from anyregion.data.region_dataset import RegionDataset
from anyregion.training.config import LoopConfig
from anyregion.training.seeds import generator
from anyregion.vocabulary import name_key

ADAPTER = 384  # hidden width of a new adapter, where none is stated
STORED_AN_IMAGE = 16  # stored regions beside each image of a step


def build(settings: RegionTaskConfig, *, loop: LoopConfig) -> RegionTask:
    """Make the task: open the stores, read the names.

    Raises:
        InputError: stores that cannot be had, or were made by another encoder.
    """
    encoder: Path | None = None
    if settings.image_encoder is not None:
        settings, encoder = with_image_encoder(settings, settings.image_encoder)
    text_encoder = CompactTextEncoder()
    kept = [settings.keep_validation] if settings.keep_validation else []
    validation, *stores = open_stores([settings.validation, *settings.data, *kept])
    kept_set = open_named_dataset(stores.pop(), text_encoder) if kept else None
    if settings.flip:
        check_mirrored(stores, "set compact.flip to 0, or make it anew")
    datasets = [
        open_named_dataset(
            store, text_encoder, unseen=settings.unseen, terms=data.terms, share=data.share
        )
        for store, data in zip(stores, settings.data, strict=True)
    ]
    share = settings.validation.share
    validation_set = open_named_dataset(validation, text_encoder, share=share)
    if encoder is not None:
        return RegionTask(
            datasets, config=settings, validation=validation_set, seed=loop.seed, encoder=encoder
        )
    return make_task(
        datasets, settings, validation=validation_set, seed=loop.seed, keep_validation=kept_set
    )


def make_task(
    datasets: Sequence[RegionDataset],
    settings: RegionTaskConfig,
    *,
    validation: RegionDataset,
    seed: int,
    keep_validation: RegionDataset | None = None,
) -> RegionTask:
    """The task of the settings: a new head, or one that begins at the built-in head."""
    if settings.start == "none":
        return RegionTask(datasets, config=settings, validation=validation, seed=seed)
    return KeepingRegionTask(
        datasets,
        config=settings,
        validation=validation,
        seed=seed,
        keep_validation=keep_validation,
    )


class KeepingRegionTask(RegionTask):
    """Trains a `RegionHeadModule` with an adapter, from the built-in head or a folder of that kind.

    Args:
        datasets, config, validation, seed: as for `RegionTask`.
        keep_validation: measured on before and after; None for none.
    """

    def __init__(
        self,
        datasets: Sequence[RegionDataset],
        *,
        config: RegionTaskConfig,
        validation: RegionDataset,
        seed: int,
        keep_validation: RegionDataset | None = None,
    ) -> None:
        self._keep_validation = keep_validation
        self._before: dict[str, float] = {}
        self._after: dict[str, float] = {}
        self.kept = load_kept_regions()
        super().__init__(datasets, config=config, validation=validation, seed=seed)
        self._start = copy.deepcopy(self.module).eval()
        self._start_calibration = starting_calibration(config.start)
        if config.start != "shipped":
            with torch.no_grad():
                answers = self.kept.answers + self._start([[self.kept.pooled]])[0]
            self.kept = replace(self.kept, answers=answers)

    def _first_module(self) -> nn.Module:
        sizes = self.config.module
        return starting_module(self.config.start, sizes.adapter or ADAPTER, sizes.adapter_dropout)

    @property
    def _random_boxes(self) -> int:
        objective = self.config.objective
        return objective.random_boxes if objective.keep_here else 0

    def load(self, item: RegionItem) -> RegionExample:
        """See `Task`."""
        draw = generator(self.seed, "kept", item.step, item.place)
        rows = torch.from_numpy(draw.choice(self.kept.trained, STORED_AN_IMAGE))
        return replace(super().load(item), stored=rows)

    def losses(self, module: nn.Module, examples: Sequence[RegionExample]) -> dict[str, Tensor]:
        """See `Task`; `naming`, `kept` and `kept_here` are the parts of `loss`."""
        objective = self.config.objective
        device = next(self.module.parameters()).device
        self._start.to(device)
        images = [[tensor.to(device) for tensor in e.features] for e in examples]
        rows = torch.cat([e.stored for e in examples if e.stored is not None])
        # one call: several processes average the gradients of what one call returned
        *answers, added = module([*images, [self.kept.pooled[rows].to(device)]])
        start = self.kept.answers[rows].to(device)
        moved = 1 - F.cosine_similarity(start + added.float(), start, dim=-1)
        elsewhere = moved.reshape(len(examples), -1).mean(1)  # (B,)
        with torch.no_grad():
            before = self._start(images)
        naming, here = [], []
        for embeddings, first, example in zip(answers, before, examples, strict=True):
            embeddings = embeddings.float()
            naming.append(self._naming_loss(embeddings, example))
            here.append(distillation_loss(embeddings, first, len(example.labels), labelled_share=0))
        by_image, pull = torch.stack(naming), torch.stack(here)  # (B,) both
        loss = by_image + objective.keep * elsewhere + objective.keep_here * pull
        parts = {"naming": by_image, "kept": elsewhere, "kept_here": pull}
        return {"loss": loss, **{name: part.detach() for name, part in parts.items()}}

    def notes(self, *, trained: bool = False) -> Sequence[str]:
        """See `Task`: how well the head names, before and after."""
        if not trained:
            self._before = self._measure(self._start)
            return ["before: " + _in_words(self._before)]
        return ["after: " + _in_words(self._after)] if self._after else ()

    def _measure(self, module: nn.Module) -> dict[str, float]:
        """Own names, what was kept of the built-in head's answers, and `keep_validation`."""
        values = {"top1": self.validate(module)["top1"], **self._agreement(module)}
        if self._keep_validation is not None:
            values["keep_top1"] = self._accuracies(module, self._keep_validation)["top1"]
        return values

    def _naming_calibration(self, module: nn.Module) -> Calibration:
        """See `RegionTask`; of the head that it begins at, the one that this head came with."""
        if module is self._start:
            return self._start_calibration
        return super()._naming_calibration(module)

    @torch.inference_mode()
    def _agreement(self, module: nn.Module) -> dict[str, float]:
        """Share of regions that keep the name, of the built-in 80, they had at the start.

        `kept` of random boxes of the validation images, `kept_stored` of stored regions that are
        not trained on.
        """
        kept = self.kept
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

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        lines = {**super().card(), "start": self.config.start}
        lines["frozen"] += ", its region head but for an adapter"
        for when, values in (("before", self._before), ("after", self._after)):
            if values:
                lines[when] = _in_words(values)
        return lines

    def _trained_names(self) -> dict[str, tuple[str, NDArray[np.float32]]]:
        known = self.kept.calibration
        still_known = {
            name_key(name): (name, row)
            for name, row in zip(known.names, known.trained, strict=True)
        }
        return super()._trained_names() | still_known

    def _further_metrics(self, module: nn.Module) -> dict[str, float]:
        self._after = self._measure(module)
        return {name: value for name, value in self._after.items() if name != "top1"}


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
