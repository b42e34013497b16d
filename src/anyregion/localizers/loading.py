"""Loading of localizers by hub name, folder or file; the table of the segmenters that are known."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.errors import require

if TYPE_CHECKING:
    import torch

    from anyregion.localizers.protocol import Localizer

# model type in config.json -> class of transformers, and module and name of its `Backend`: both
# imported when used, for they need the extra. The video models hold the image model whole
BACKENDS = {
    "sam": ("SamModel", "sam:SamBackend"),
    "sam_hq": ("SamHQModel", "sam:SamHQBackend"),
    "sam2": ("Sam2Model", "sam2:Sam2Backend"),
    "sam2_video": ("Sam2Model", "sam2:Sam2Backend"),
    "sam3_tracker": ("Sam3TrackerModel", "sam2:Sam3Backend"),
    "sam3_tracker_video": ("Sam3TrackerModel", "sam2:Sam3Backend"),
    "sam3_video": ("Sam3TrackerModel", "sam2:Sam3Backend"),
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
    from anyregion.localizers.segmenter import LocalizerOptions, PromptableSegmenter
    from anyregion.torch_utils.hub import WEIGHT_SUFFIXES, load_config, load_model
    from anyregion.torch_utils.weights import read_state_dict

    name = str(name_or_path)
    options = LocalizerOptions(
        device=device, chunk=chunk, batch_size=batch_size, encoder_dtype=encoder_dtype
    )
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in WEIGHT_SUFFIXES:
        name = str(path)
        _, backend = _known("sam")
        model = sam_model_from_state(read_state_dict(path), name=name)
    else:
        source = str(path) if path.is_dir() else name
        config = load_config(source, role="localizer", kinds=BACKENDS)
        model_class, backend = _known(config.model_type)
        settings = {}
        if backend.layer_norm_eps is not None:
            config.mask_decoder_config.layer_norm_eps = backend.layer_norm_eps
            settings["config"] = config
        model = load_model(getattr(transformers, model_class), source, **settings)
    return PromptableSegmenter(backend, model, name=name, options=options)


def _known(model_type: str) -> tuple[str, Any]:
    model_class, place = BACKENDS[model_type]
    module, name = place.split(":")
    return model_class, getattr(import_module(f"anyregion.localizers.{module}"), name)
