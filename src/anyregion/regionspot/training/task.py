"""RegionSpot's task for the trainer's loop: which images, their regions, the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyregion.data.samplers import EpochSampler, Mixture, repeat_factors
from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.regionspot.adapter import Adapter, stack_tokens
from anyregion.regionspot.losses import (
    cross_entropy_losses,
    distillation_losses,
    focal_losses,
    region_logits,
    repeated_rows,
)
from anyregion.regionspot.pretrained import Pretrained, write_folder
from anyregion.regionspot.training.config import ObjectiveConfig
from anyregion.regionspot.training.sets import TrainingSet
from anyregion.regionspot.training.validation import Validation
from anyregion.training.seeds import generator
from anyregion.training.task import ACCURACY_METRICS, Task


@dataclass(frozen=True, eq=False)
class RegionItem:
    """One image of a step.

    Attributes:
        data: which data set.
        image: position in its annotations.
        flipped: whether token and feature map are those of the mirror image.
        rows: which of its tokens, in order; some twice where images are filled by repeating.
    """

    data: int
    image: int
    flipped: bool
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RegionExample:
    """What a `RegionItem` holds: tokens `(N, W)`, features `(T, D)` or None, labels `(N,)`, and
    the teacher's embeddings `(N, E)` or None."""

    data: int
    tokens: Tensor
    features: Tensor | None
    labels: Tensor
    teacher: Tensor | None


class RegionSpotTask(Task):
    """Trains an adapter on stored features. See `training.task.Task`.

    Args:
        adapter: what learns.
        sets: the data sets; a step's images are of one of them.
        scale: of the cosine, as the adapter will be used with.
        about: what `save` states of it.
        objective: the loss.
        seed: of what is drawn.
        batch, flip, max_regions, fill: see `RegionSpotConfig`.
        validation: what `validate` measures on, or None.

    Raises:
        InputError: widths that do not fit each other, naming them.
    """

    def __init__(
        self,
        adapter: Adapter,
        sets: Sequence[TrainingSet],
        *,
        scale: float,
        about: Pretrained,
        objective: ObjectiveConfig | None = None,
        seed: int = 0,
        batch: int = 16,
        flip: float = 0.5,
        max_regions: int | None = None,
        fill: str = "pad",
        validation: Validation | None = None,
    ) -> None:
        self.module: nn.Module = adapter
        self.adapter_config = adapter.config
        self.sets = tuple(sets)
        self.scale, self.stated = scale, about
        self.objective = objective or ObjectiveConfig()
        self.seed, self.batch, self.flip = seed, batch, flip
        self.max_regions, self.fill, self.validation = max_regions, fill, validation
        self.metrics = {} if validation is None else ACCURACY_METRICS
        self._mixture = Mixture([s.ratio for s in self.sets], seed)
        self._samplers = [
            EpochSampler(
                repeat_factors(s.reader.annotations, s.repeat_threshold)[s.images], seed, number
            )
            for number, s in enumerate(self.sets)
        ]
        self._matrices = [s.matrix for s in self.sets]
        for number, one in enumerate(self.sets):
            self._check(number, one)

    def plan(self, step: int) -> list[RegionItem]:
        """See `Task`."""
        number, before = self._mixture.at(step)
        data = self.sets[number]
        drawn = self._samplers[number].draw(before * self.batch, self.batch)
        items = []
        for place, position in enumerate(drawn):
            draw = generator(self.seed, "item", step, place)
            flipped = bool(draw.random() < self.flip)
            image = int(data.images[position])
            rows = data.rows(image)
            if self.max_regions is not None and len(rows) > self.max_regions:
                rows = np.sort(draw.choice(rows, self.max_regions, replace=False))
            items.append(RegionItem(number, image, flipped, rows))
        if self.fill == "repeat":
            most = max(len(item.rows) for item in items)
            items = [
                RegionItem(i.data, i.image, i.flipped, i.rows[repeated_rows(len(i.rows), most)])
                for i in items
            ]
        return items

    def load(self, item: RegionItem) -> RegionExample:
        """See `Task`. What is stored stays half precision until it is on the device."""
        data = self.sets[item.data]
        found = data.reader.read(item.image, flipped=item.flipped)
        labels = data.labels_of(item.image)
        if len(found["tokens"]) != len(labels):
            raise InputError(
                f"{self.describe(item)}: {len(found['tokens'])} tokens for {len(labels)} regions"
            )
        teacher = found["teacher"][item.rows] if self.objective.distillation else None
        return RegionExample(
            data=item.data,
            tokens=torch.from_numpy(np.array(found["tokens"][item.rows])),
            features=(
                torch.from_numpy(np.array(found["features"]))
                if self.adapter_config.use_features
                else None
            ),
            labels=torch.from_numpy(labels[item.rows]),
            teacher=None if teacher is None else torch.from_numpy(np.array(teacher)),
        )

    def losses(self, module: nn.Module, examples: Sequence[RegionExample]) -> dict[str, Tensor]:
        """See `Task`; `naming` and `distillation` are the parts of `loss`."""
        device = next(self.module.parameters()).device
        tokens, groups = stack_tokens([e.tokens[:, None].to(device).float() for e in examples])
        labels = padded([e.labels.to(device) for e in examples], -1)
        features = None
        if self.adapter_config.use_features:
            maps = [e.features for e in examples if e.features is not None]
            features = torch.stack(maps).to(device).float()
        embedded = module(tokens, features, groups=groups).float()
        logits = region_logits(embedded, self._matrix(examples[0].data, device), self.scale)
        if self.objective.kind == "focal":
            naming = focal_losses(
                logits, labels, alpha=self.objective.alpha, gamma=self.objective.gamma
            )
        else:
            naming = cross_entropy_losses(logits, labels)
        if not self.objective.distillation:
            return {"loss": naming}
        wanted = padded([e.teacher.to(device).float() for e in examples if e.teacher is not None])
        pull = distillation_losses(embedded, wanted, labels)
        loss = naming + self.objective.distillation * pull
        return {"loss": loss, "naming": naming.detach(), "distillation": pull.detach()}

    def describe(self, item: RegionItem) -> str:
        """See `Task`."""
        data = self.sets[item.data]
        mirrored = " (mirrored)" if item.flipped else ""
        return f"{data.reader.annotations.file_names[item.image]}{mirrored} of {data.name}"

    def validate(self, module: nn.Module) -> dict[str, float]:
        """See `Task`."""
        return {} if self.validation is None else self.validation.measure(module, self.scale)

    def pictures(self, module: nn.Module) -> Mapping[str, Pixels]:
        """See `Task`."""
        return {} if self.validation is None else self.validation.pictures(module, self.scale)

    def save(self, module: nn.Module, folder: Path) -> None:
        """A folder for `load_recognizer`. See `Task`."""
        write_folder(folder, self.stated, module.state_dict())

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        lines = {
            f"data: {s.name}": f"{len(s.images):,} images, {len(s.vocabulary):,} names, "
            f"share {s.ratio}; terms: {s.terms}"
            for s in self.sets
        }
        frozen = f"{self.stated.localizer} and {self.stated.vlm}"
        return {**lines, "frozen models": frozen, "licence of the weights": self.stated.licence}

    def _matrix(self, number: int, device: torch.device) -> Tensor:
        self._matrices[number] = self._matrices[number].to(device)
        return self._matrices[number]

    def _check(self, number: int, data: TrainingSet) -> None:
        config = self.adapter_config
        sample = data.reader.read(int(data.images[0]), flipped=self.flip > 0)
        needed = ["tokens"] + ["features"] * config.use_features
        needed += ["teacher"] * bool(self.objective.distillation)
        if missing := [name for name in needed if name not in sample]:
            raise InputError(f"{data.name}: holds no {', '.join(missing)}")
        widths = [
            ("tokens", config.token_width, sample["tokens"].shape[-1]),
            ("words", config.embed_width, data.matrix.shape[-1]),
        ]
        if config.use_features:
            widths.append(("feature map", config.feature_width, sample["features"].shape[-1]))
        for what, ours, theirs in widths:
            if ours != theirs:
                raise InputError(
                    f"{data.name}: {what} of width {theirs}; regionspot.adapter says {ours}"
                )


def padded(parts: Sequence[Tensor], value: float = 0.0) -> Tensor:
    """`(N_i, ...)` of several images as `(B, N, ...)`, the missing rows filled with `value`."""
    return nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=value)
