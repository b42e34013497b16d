"""Another backbone as `compact`'s image encoder: its graph, and the stores with its features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from anyregion.backbones.dense import load_weighted_encoder
from anyregion.compact.assets import IMAGE_ENCODER
from anyregion.compact.image_encoder import ALL_MAPS
from anyregion.compact.model import CompactExtractor, CompactModel
from anyregion.compact.training.dataset import StoreConfig
from anyregion.compact.training.export import export_image_encoder
from anyregion.compact.training.region_config import RegionTaskConfig
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.store import Store, create_store
from anyregion.errors import InputError
from anyregion.torch_utils.weights import fingerprint

# maps of a wide backbone are some megabytes an image: a shard is in memory until it is written
_IMAGES_PER_SHARD = 32

C = TypeVar("C", bound=StoreConfig)


def with_image_encoder(settings: RegionTaskConfig, where: str) -> tuple[RegionTaskConfig, Path]:
    """The settings of a training on another backbone's features, and the backbone's graph.

    The graph is written beside the first store, and features are computed into stores beside those
    that are named; what is there already is used.

    Args:
        settings: whose stores say which images there are, and where these lie.
        where: see `RegionTaskConfig.image_encoder`.

    Raises:
        InputError: a backbone without maps at strides 8, 16 and 32, or stores that do not say where
            their images lie.
        CheckpointError: as `load_weighted_encoder`.
    """
    graph = _graph(where, Path(settings.data[0].store).parent)
    model = CompactModel(graph.parent)
    channels = tuple(
        {o.name: o.shape[1] for o in model.image_encoder.session.get_outputs()}[name]
        for name in ALL_MAPS
    )
    extractor = CompactExtractor(model)
    changed = replace(
        settings,
        data=tuple(_with_features(config, extractor) for config in settings.data),
        validation=_with_features(settings.validation, extractor),
        # without a training-free answer there is nothing to add to, and nothing to distil
        module=replace(settings.module, channels=channels, residual=False),
        objective=replace(settings.objective, distillation=0.0),
    )
    return changed, graph


def _graph(where: str, folder: Path) -> Path:
    """The graph of a backbone: a folder's, or one that is written now."""
    if (Path(where) / IMAGE_ENCODER).is_file():
        return Path(where) / IMAGE_ENCODER
    encoder = load_weighted_encoder(where)
    content = fingerprint(encoder.body.state_dict().items())
    path = folder / f"image-encoder-{content.rpartition(':')[2][:12]}" / IMAGE_ENCODER
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        export_image_encoder(encoder.eval(), path)
    return path


def _with_features(config: C, extractor: CompactExtractor) -> C:
    """The store with the extractor's features of the same images: itself, or one beside it."""
    source = Store(config.store)
    if source.fingerprint == extractor.fingerprint:
        return config
    images = source.info.notes.get("images")
    if not isinstance(images, str):
        raise InputError(f"{source.folder}: it does not say where its images lie: make it anew")
    folder = Path(f"{config.store}-{extractor.model.encoder_digest[:12]}")
    store = create_store(
        folder,
        source.annotations,
        extractor,
        mirrored=source.info.mirrored,
        images_per_shard=_IMAGES_PER_SHARD,
        notes={**source.info.notes, "models": {"model": str(extractor.model.folder)}},
    )
    fill_store(store, extractor, images)
    return replace(config, store=str(folder))
