"""A name, folder or file to a ready localizer: the one table of the families."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.errors import CheckpointError, InputError, require

if TYPE_CHECKING:
    import torch

    from anyregion.localizers.protocol import Localizer

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")

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
    from anyregion.localizers.sam import sam_localizer
    from anyregion.localizers.sam2 import SAM3_MEAN, SAM3_STD, sam2_localizer
    from anyregion.localizers.sam_checkpoint import sam_model_from_state
    from anyregion.localizers.sam_hq import sam_hq_localizer
    from anyregion.localizers.segmenter import LocalizerOptions
    from anyregion.torch_utils.weights import read_state_dict

    name = str(name_or_path)
    options = LocalizerOptions(
        device=device, chunk=chunk, batch_size=batch_size, encoder_dtype=encoder_dtype
    )
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in WEIGHT_SUFFIXES:
        model = sam_model_from_state(read_state_dict(path), name=str(path))
        return sam_localizer(model, name=str(path), options=options)
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"{name}: no config.json: not a folder that save_pretrained wrote")
    source = str(path) if path.is_dir() else name
    kind, config = _model_type(source)
    model = _pretrained(source, MODEL_CLASSES[kind], config)
    if kind == "sam":
        return sam_localizer(model, name=name, options=options)
    if kind == "sam_hq":
        return sam_hq_localizer(model, name=name, options=options)
    if kind.startswith("sam3"):
        return sam2_localizer(model, name=name, options=options, mean=SAM3_MEAN, std=SAM3_STD)
    return sam2_localizer(model, name=name, options=options)


def _model_type(source: str) -> tuple[str, Any]:
    """The model type, and the configuration to load with where it has to differ from the file."""
    from transformers import AutoConfig

    known = ", ".join(MODEL_CLASSES)
    try:
        config = AutoConfig.from_pretrained(source)
    except OSError as error:
        raise _unreachable(source, error) from None
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{source}: not a localizer ({reason}); known model types: {known}"
        ) from None
    kind = config.model_type
    if kind not in MODEL_CLASSES:
        raise InputError(f"{source}: a {kind!r} is not a localizer; known model types: {known}")
    if kind in ("sam", "sam_hq"):
        # segment-anything's decoder has torch's default; the converted files say 1e-6
        config.mask_decoder_config.layer_norm_eps = 1e-5
        return kind, config
    return kind, None


def _pretrained(source: str, class_name: str, config: Any) -> Any:
    import torch
    import transformers
    from safetensors import SafetensorError

    try:
        model, info = getattr(transformers, class_name).from_pretrained(
            source,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # it then lists them, and they are refused below
            config=config,
        )
    except OSError as error:
        raise _unreachable(source, error) from None
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{source}: the weights cannot be loaded ({error})") from None
    # transformers would fill these with random numbers and go on
    wrong = sorted(info["missing_keys"]) + [str(key) for key in info["mismatched_keys"]]
    if wrong:
        raise CheckpointError(
            f"{source}: weights of {class_name} missing or of another size: "
            f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}"
        )
    return model


def _unreachable(source: str, error: OSError) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if Path(source).is_dir():
        return InputError(f"{source}: not a folder that save_pretrained wrote ({reason})")
    return InputError(
        f"{source}: no such file or folder here, and the Hugging Face hub did not give it "
        f"({reason}). Copy the model's folder (config.json, model.safetensors) to this machine "
        "and give its path, or a SAM checkpoint of segment-anything (.pth)"
    )
