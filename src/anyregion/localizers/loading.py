"""Loading of localizers by hub name, folder or file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.errors import require

if TYPE_CHECKING:
    import torch

    from anyregion.localizers.protocol import Localizer

# model type in config.json -> class of transformers; the video models hold the image model whole
MODEL_CLASSES = {
    "sam": "SamModel",
    "sam_hq": "SamHQModel",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "sam3_tracker": "Sam3TrackerModel",
    "sam3_tracker_video": "Sam3TrackerModel",
    "sam3_video": "Sam3TrackerModel",
}


def load_localizer(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    chunk: int | None = None,
    batch_size: int | None = None,
    encoder_dtype: torch.dtype | None = None,
) -> Localizer:
    """Load SAM, SAM-HQ, SAM 2.1 or SAM 3's tracker.

    Args:
        name_or_path: a name on the Hugging Face hub, a folder that `save_pretrained` wrote, or a
            file of SAM weights in segment-anything's layout (`.pth` or `.safetensors`; a full
            RegionSpot checkpoint, which holds a SAM, works too).
        device, chunk, batch_size, encoder_dtype: see `LocalizerOptions`.

    Raises:
        InputError: nothing there, a hub that does not answer, or another kind of model.
        CheckpointError: no such file of weights, broken or pickled ones, or weights that do not
            fit the configuration: names the file and some of what is wrong.
        MissingExtraError: without `anyregion[torch]`.
    """
    require("torch", "torch", "transformers")
    # only now: without the extra, importing this module must not fail
    import transformers

    from anyregion.localizers.checkpoint import sam_model_from_state
    from anyregion.localizers.sam import sam_hq_localizer, sam_localizer
    from anyregion.localizers.sam2 import SAM3_MEAN, SAM3_STD, sam2_localizer
    from anyregion.localizers.segmenter import LocalizerOptions
    from anyregion.torch_utils.hub import WEIGHT_SUFFIXES, load_config, load_model
    from anyregion.torch_utils.weights import read_state_dict

    name = str(name_or_path)
    options = LocalizerOptions(
        device=device, chunk=chunk, batch_size=batch_size, encoder_dtype=encoder_dtype
    )
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in WEIGHT_SUFFIXES:
        model = sam_model_from_state(read_state_dict(path), name=str(path))
        return sam_localizer(model, name=str(path), options=options)
    source = str(path) if path.is_dir() else name
    config = load_config(source, role="localizer", kinds=MODEL_CLASSES)
    kind = config.model_type
    settings = {}
    if kind in ("sam", "sam_hq"):
        # segment-anything's decoder has torch's default; the converted files say 1e-6
        config.mask_decoder_config.layer_norm_eps = 1e-5
        settings["config"] = config
    model = load_model(getattr(transformers, MODEL_CLASSES[kind]), source, **settings)
    if kind == "sam":
        return sam_localizer(model, name=name, options=options)
    if kind == "sam_hq":
        return sam_hq_localizer(model, name=name, options=options)
    # SAM 3's tracker is SAM 2 with another image encoder and another input
    if kind.startswith("sam3"):
        return sam2_localizer(model, name=name, options=options, mean=SAM3_MEAN, std=SAM3_STD)
    return sam2_localizer(model, name=name, options=options)
