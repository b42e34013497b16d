"""`SeenRegions`: what the model makes of a project's regions, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyregion.region_encoder import RegionEmbeddings
from anyregion.teaching.region_table import RegionTable

Key = tuple[str, str]
"""Image and region."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """A region as the model sees it, and the prompt that it was then."""

    prompt: Mapping[str, Any]
    embedded: RegionEmbeddings


class SeenRegions:
    """Embeddings of regions, a few kilobytes each.

    Args:
        stored: regions that the model saw before; one with the box of such a region is that one.
    """

    def __init__(self, stored: RegionTable | None = None) -> None:
        self._stored = stored
        self._seen: dict[Key, _Seen] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._seen

    def __getitem__(self, key: Key) -> RegionEmbeddings:
        return self._seen[key].embedded

    def forget(self, key: Key) -> None:
        """Forget a region, if it was seen."""
        self._seen.pop(key, None)

    def look_up(
        self, image: str, prompts: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Mapping[str, Any]]:
        """Which regions of an image the model has to look at: all but those seen as they are.

        Args:
            image: its id, the SHA-256 of its file.
            prompts: of its regions, by their ids.
        """
        missing = {
            name: prompt
            for name, prompt in prompts.items()
            if (image, name) not in self._seen or self._seen[image, name].prompt != prompt
        }
        boxes = {name: p["box"] for name, p in missing.items() if p.keys() == {"box"}}
        if self._stored is None or not boxes:
            return missing
        rows = self._stored.find(image, np.array(list(boxes.values()), dtype=np.float64))
        for name, row in zip(boxes, rows.tolist(), strict=True):
            if row >= 0:
                embedded = self._stored.embedded(np.array([row]))
                self._seen[image, name] = _Seen(missing.pop(name), embedded)
        return missing

    def add(
        self, image: str, prompts: Mapping[str, Mapping[str, Any]], embedded: RegionEmbeddings
    ) -> None:
        """Keep regions of an image, row by row."""
        for i, (name, prompt) in enumerate(prompts.items()):
            self._seen[image, name] = _Seen(prompt, _row(embedded, i))

    def stack(self, keys: Sequence[Key]) -> RegionEmbeddings:
        """Several regions as one, in that order."""
        rows = [self._seen[key].embedded for key in keys]
        names = rows[0].features
        return RegionEmbeddings(
            np.concatenate([row.embeddings for row in rows]),
            np.concatenate([row.boxes for row in rows]),
            features=None
            if names is None
            else {n: np.concatenate([(row.features or {})[n] for row in rows]) for n in names},
        )


def _row(embedded: RegionEmbeddings, i: int) -> RegionEmbeddings:
    """One row, by itself."""
    features = embedded.features
    return RegionEmbeddings(
        embedded.embeddings[i : i + 1].copy(),
        embedded.boxes[i : i + 1].copy(),
        features=None
        if features is None
        else {n: v[i : i + 1].copy() for n, v in features.items()},
    )
