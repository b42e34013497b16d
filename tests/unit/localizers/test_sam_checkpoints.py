"""Checkpoints in segment-anything's names, whole, broken and hostile."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from anyregion.errors import CheckpointError  # noqa: E402
from anyregion.localizers.checkpoint import sam_model_from_state  # noqa: E402
from anyregion.localizers.loading import load_localizer  # noqa: E402
from anyregion.localizers.sam import SamBackend  # noqa: E402
from anyregion.localizers.segmenter import PromptableSegmenter  # noqa: E402
from tests.helpers.sam_reference import close, photo, reference_outputs, regions_of  # noqa: E402
from tests.helpers.small_localizers import sam_config, spread  # noqa: E402


def published_names(model: Any) -> dict[str, Any]:
    """A `SamModel`'s tensors in segment-anything's names, written down apart from the package."""
    norms = {"layer_norm_final_attn": "norm_final_attn"}
    norms |= {f"layer_norm{i}": f"norm{i}" for i in range(1, 5)}
    fixed = {
        "vision_encoder.neck.conv1": "image_encoder.neck.0",
        "vision_encoder.neck.layer_norm1": "image_encoder.neck.1",
        "vision_encoder.neck.conv2": "image_encoder.neck.2",
        "vision_encoder.neck.layer_norm2": "image_encoder.neck.3",
        "prompt_encoder.mask_embed.conv1": "prompt_encoder.mask_downscaling.0",
        "prompt_encoder.mask_embed.layer_norm1": "prompt_encoder.mask_downscaling.1",
        "prompt_encoder.mask_embed.conv2": "prompt_encoder.mask_downscaling.3",
        "prompt_encoder.mask_embed.layer_norm2": "prompt_encoder.mask_downscaling.4",
        "prompt_encoder.mask_embed.conv3": "prompt_encoder.mask_downscaling.6",
        "mask_decoder.upscale_conv1": "mask_decoder.output_upscaling.0",
        "mask_decoder.upscale_layer_norm": "mask_decoder.output_upscaling.1",
        "mask_decoder.upscale_conv2": "mask_decoder.output_upscaling.3",
    }
    mlp = {"proj_in": "layers.0", "layers.0": "layers.1", "proj_out": "layers.2"}
    state = {}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if "shared_embedding" in name:
            continue
        if name == "shared_image_embedding.positional_embedding":
            new = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
        elif module in fixed:
            new = f"{fixed[module]}.{kind}"
        else:
            new = name.replace("vision_encoder.layers", "image_encoder.blocks")
            new = new.replace("vision_encoder", "image_encoder")
            new = new.replace("patch_embed.projection", "patch_embed.proj")
            new = new.replace("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings.")
            for old, other in norms.items():
                new = new.replace(old, other)
            if "hypernetworks" in new or "iou_prediction_head" in new:
                for old, other in mlp.items():
                    if f".{old}." in new:
                        new = new.replace(old, other)
                        break
        state[new] = tensor.clone()
    return state


@pytest.fixture(scope="module")
def sam_state() -> dict[str, Any]:
    # 80 pixels and windows of 7 on a grid of 10: windows are padded, and no size is the default
    return published_names(spread(transformers.SamModel(sam_config(side=80, window=7))))


@pytest.mark.parametrize("prefix", ["", "model.sam."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_gives_the_model_it_was_made_from(
    sam_state: dict[str, Any], tmp_path: Path, prefix: str, suffix: str
) -> None:
    path = tmp_path / f"sam{suffix}"
    state = {prefix + name: tensor for name, tensor in sam_state.items()}
    if prefix:
        state["model.to_clip.weight"] = torch.zeros(2)  # a neighbour that is no part of SAM
    if suffix == ".pth":
        torch.save({"model": state, "iteration": 3} if prefix else state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    model = spread(transformers.SamModel(sam_config(side=80, window=7)))
    localizer = load_localizer(path, chunk=3)
    assert localizer.name == str(path)
    assert isinstance(localizer, PromptableSegmenter)
    assert localizer.chunk == 3
    config = localizer.backend.model.config
    assert config.vision_config.window_size == 7
    assert list(config.vision_config.global_attn_indexes) == [1]
    assert config.vision_config._attn_implementation == "sdpa"
    assert config.mask_decoder_config.layer_norm_eps == 1e-5
    original = PromptableSegmenter(SamBackend, model, name="")
    image = photo((60, 37))
    regions = regions_of("box+points", (60, 37), localizer.low_side)
    result = localizer.tokens(localizer.encode([image])[0], regions, masks=True)
    reference = original.tokens(original.encode([image])[0], regions, masks=True)
    close(result.tokens, reference.tokens, 2e-6)
    close(result.mask_logits, reference.mask_logits, 1e-5)
    tokens, logits, _ = reference_outputs(localizer, image, regions, multimask=False)
    close(result.tokens, tokens)
    close(result.mask_logits, logits, 1e-4)


def test_half_precision_weights_become_float32(sam_state: dict[str, Any]) -> None:
    model = sam_model_from_state({k: t.half() for k, t in sam_state.items()}, name="half")
    localizer = PromptableSegmenter(SamBackend, model, name="half")
    assert localizer.name == "half"
    assert {p.dtype for p in localizer.backend.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in localizer.backend.model.parameters())


def broken(state: dict[str, Any], how: str) -> dict[str, Any]:
    changed = dict(state)
    token = "mask_decoder.iou_token.weight"
    if how == "missing":
        del changed["image_encoder.neck.2.weight"]
    elif how == "missing size":
        del changed["image_encoder.pos_embed"]
    elif how == "unexpected":
        changed["mask_decoder.hf_token.weight"] = changed[token]
    elif how == "other size":
        name = "mask_decoder.transformer.layers.1.mlp.lin2.weight"
        changed[name] = changed[name][:, :-1]
    elif how == "windows":
        name = "image_encoder.blocks.0.attn.rel_pos_h"
        changed[name] = changed[name][:-2]
    elif how == "no blocks":
        changed = {k: t for k, t in changed.items() if "blocks" not in k}
    elif how == "another model":
        changed = {"encoder.weight": torch.zeros(3)}
    return changed


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", r"missing vision_encoder\.neck\.conv2\.weight"),
        ("missing size", r"missing 'image_encoder\.pos_embed'"),
        ("unexpected", r"unexpected mask_decoder\.hf_token\.weight"),
        ("other size", r"of another size.*lin2\.weight is \(32, 47\), not \(32, 48\)"),
        ("windows", r"windows of several sizes: \[6, 7\]"),
        ("no blocks", "not segment-anything's SAM"),
        ("another model", r"no image_encoder\.patch_embed\.proj\.weight among encoder\.weight"),
    ],
)
def test_weights_that_are_no_sam_say_what_is_wrong(
    sam_state: dict[str, Any], tmp_path: Path, how: str, says: str
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(broken(sam_state, how), path)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_localizer(path)
    assert str(path) in str(caught.value)


class Payload:
    """Pickles as a call that would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["pickle", "in torch's format"])
def test_pickled_code_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"model": Payload(mark)}))
    else:
        torch.save({"model": Payload(mark)}, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth.*(pickled|broken)"):
        load_localizer(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_files_are_named(
    sam_state: dict[str, Any], tmp_path: Path, suffix: str, keep: float
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(sam_state, path)
    else:
        from safetensors.torch import save_file

        save_file(sam_state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content) if keep < 1 else keep)])
    with pytest.raises(CheckpointError, match=rf"weights\{suffix}"):
        load_localizer(path)


def test_files_of_other_things_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save([torch.zeros(2)], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_localizer(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="no named tensors"):
        load_localizer(path)


def test_the_model_alone_can_be_had(sam_state: dict[str, Any]) -> None:
    model = sam_model_from_state(sam_state)
    assert isinstance(model, transformers.SamModel)
    assert not model.training
