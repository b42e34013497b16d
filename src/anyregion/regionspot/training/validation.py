"""How well an adapter names regions that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anyregion.data.image_files import image_path
from anyregion.drawing.picture import draw_records
from anyregion.evaluation.metrics.accuracy import accuracies, ranks_in_scores
from anyregion.images import Pixels, read_image
from anyregion.regionspot.losses import region_logits
from anyregion.regionspot.training.sets import TrainingSet

PICTURES = 4


@dataclass(frozen=True, eq=False)
class Validation:
    """A data set that is measured on.

    Attributes:
        data: its regions with a name of its vocabulary count.
        limit: no more than that many of its first images; 0 for all.
        images: folder of the images, to draw the first few; None draws none.
    """

    data: TrainingSet
    limit: int = 0
    images: Path | None = None

    @torch.no_grad()
    def measure(self, module: nn.Module, scale: float) -> dict[str, float]:
        """`top1`, `top5` and `mean_class_accuracy`, fractions of the regions, among all names."""
        ranks, labels = [], []
        chosen = self.data.images[: self.limit] if self.limit else self.data.images
        for image in chosen.tolist():
            logits = self._logits(module, image, scale)
            rows = self.data.rows(image)
            wanted = self.data.labels_of(image)[rows]
            ranks.append(ranks_in_scores(logits.cpu().numpy()[rows], wanted))
            labels.append(wanted)
        return accuracies(np.concatenate(ranks), np.concatenate(labels))

    @torch.no_grad()
    def pictures(self, module: nn.Module, scale: float) -> Mapping[str, Pixels]:
        """The first images with their regions named."""
        if self.images is None:
            return {}
        drawn = {}
        annotations = self.data.reader.annotations
        for image in self.data.images[:PICTURES].tolist():
            shares = self._logits(module, image, scale).softmax(dim=1).cpu()
            best = shares.max(dim=1)
            name = annotations.file_names[image]
            records = [
                {
                    "id": int(annotations.region_ids[row]),
                    "box": annotations.boxes[row].tolist(),
                    "label": self.data.vocabulary.names[int(place)],
                    "score": float(share),
                }
                for row, place, share in zip(
                    annotations.rows(image), best.indices, best.values, strict=True
                )
            ]
            picture = draw_records(
                read_image(image_path(self.images, name)), records, max_side=1024
            )
            drawn[Path(name).stem] = np.array(picture)
        return drawn

    def _logits(self, module: nn.Module, image: int, scale: float) -> Tensor:
        """Of all regions of one image, `(N, C)`: as when they are asked about together."""
        found = self.data.reader.read(image)
        device = next(module.parameters()).device
        tokens = torch.from_numpy(np.array(found["tokens"])).to(device).float()
        features = None
        if "features" in found:
            features = torch.from_numpy(np.array(found["features"])).to(device).float()[None]
        embedded = module(tokens[None], features)[0]
        return region_logits(embedded, self.data.matrix.to(device), scale)
