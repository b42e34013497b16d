"""Checkpoints, folders and names: what loads, and what is said of the rest."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from anyregion.errors import CheckpointError, InputError  # noqa: E402
from anyregion.torch_utils.devices import check_device  # noqa: E402
from anyregion.vlms.loading import load_vlm, split_open_clip  # noqa: E402
from anyregion.vlms.openai_clip import clip_from_openai_state_dict  # noqa: E402
from anyregion.vlms.protocol import VlmOptions  # noqa: E402
from tests.helpers.small_vlms import (  # noqa: E402
    RESNET,
    TEXTS,
    VIT,
    open_clip_vit,
    openai_clip,
    photos,
    small_open_clip,
)


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", ""])
def test_a_device_that_is_not_here(device: str, folders: dict[str, Path]) -> None:
    for load_it in (
        lambda: load_vlm(folders["clip"], device=device),
        lambda: clip_from_openai_state_dict({}, options=VlmOptions(device=device)),
    ):
        with pytest.raises(InputError, match=f"device '{device}' cannot be used: torch offers cpu"):
            load_it()
    assert check_device("cpu") == check_device(torch.device("cpu")) == torch.device("cpu")


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def bad_checkpoint(case: str, path: Path) -> Path:
    weights = dict(small_open_clip("vit", **VIT).state_dict())
    if case == "sizes":
        weights["visual.proj"] = torch.zeros(64, 48)
    elif case == "missing":
        del weights["visual.transformer.resblocks.1.ln_1.bias"]
    elif case == "unknown":
        weights["visual.extra"] = torch.zeros(1)
    elif case == "width":
        weights["visual.conv1.weight"] = torch.zeros(100, 3, 8, 8)
    elif case == "tokens":
        weights["token_embedding.weight"] = torch.zeros(1000, 64)
    elif case == "foreign":
        weights = {"layer.weight": torch.zeros(2)}
    if case == "pickle":
        path.write_bytes(pickle.dumps({"model": _Payload()}))
    elif case == "payload":
        torch.save({"state_dict": weights, "extra": _Payload()}, path)
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "list":
        torch.save([1, 2], path)
    elif case == "torchscript":
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    else:
        torch.save(weights, path)
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    return path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("sizes", "size mismatch"),
        ("missing", "Missing key"),
        ("unknown", "visual.extra"),
        ("width", "multiple of 64"),
        ("tokens", "1000 tokens"),
        ("foreign", "OpenAI's names"),
        ("pickle", "could run code"),
        ("payload", "could run code"),
        ("empty", "is no checkpoint: it is empty"),
        ("truncated", "broken or truncated"),
        ("list", "not a state dict"),
        ("torchscript", "TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_wrong_checkpoints(
    case: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bad_checkpoint(case, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=message):
        load_vlm(path)
    assert "code ran" not in capsys.readouterr().out


def test_broken_resnet_weights() -> None:
    weights = dict(small_open_clip("rn", **RESNET).state_dict())
    del weights["visual.attnpool.v_proj.bias"]
    with pytest.raises(CheckpointError, match="v_proj"):
        clip_from_openai_state_dict(weights)


def test_good_checkpoint_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {k: v.contiguous() for k, v in small_open_clip("vit", **VIT).state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "w.pt")
    expected = openai_clip().embed_images(photos(1))
    for name in ("w.safetensors", "w.pt"):
        vlm = load_vlm(tmp_path / name, batch_size=1)
        assert vlm.name.endswith(name)
        np.testing.assert_array_equal(vlm.embed_images(photos(1)), expected)
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated or not safetensors"):
        load_vlm(tmp_path / "w.safetensors")


def test_what_cannot_be_loaded_is_said(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_vlm(tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match=r"no config\.json"):
        load_vlm(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(
        InputError, match=r"'bert' is not a .*known are clip, metaclip_2, siglip, siglip2"
    ):
        load_vlm(tmp_path)
    (tmp_path / "config.json").write_text((folders["clip"] / "config.json").read_text())
    with pytest.raises(InputError, match="local folder"):
        load_vlm(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(CheckpointError):
        load_vlm(tmp_path)
    with pytest.raises(InputError, match="say which weights"):
        load_vlm("open_clip:ViT-B-32")
    with pytest.raises(InputError, match="Check name"):
        load_vlm("open_clip:No-Such-Model/laion2b")
    with pytest.raises(InputError, match="dense must be"):
        openai_clip(dense="value")
    for size in ("batch_size", "text_batch_size"):
        with pytest.raises(InputError, match=f"^{size} must be at least 1"):
            load_vlm(folders["clip"], **{size: 0})


def test_a_folder_with_half_the_weights(tmp_path: Path, folders: dict[str, Path]) -> None:
    from safetensors.torch import load_file, save_file

    for file in folders["clip"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "visual_projection" not in k},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match="missing"):
        load_vlm(tmp_path)


def test_an_unreachable_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"owner/nothing-of-the-kind: .*local folder"):
        load_vlm("owner/nothing-of-the-kind")


def test_open_clip_names() -> None:
    assert split_open_clip("open_clip:ViT-B-16/laion2b") == ("ViT-B-16", "laion2b")
    assert split_open_clip("open_clip:ViT-B-16/a/b.pt") == ("ViT-B-16", "a/b.pt")
    assert split_open_clip("open_clip:hf-hub:owner/model") == ("hf-hub:owner/model", None)


def test_open_clip_from_a_folder_and_a_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    config = {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": text, "quick_gelu": True}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.4] * 3}})
    )
    weights = {k: v.contiguous() for k, v in small_open_clip("vit", **VIT).state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    vlm = load_vlm(f"open_clip:local-dir:{tmp_path}")
    assert tuple(vlm.vision.mean) == (0.5, 0.5, 0.5)
    np.testing.assert_array_equal(
        vlm.text.encode_text(TEXTS), open_clip_vit().text.encode_text(TEXTS)
    )
    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"model": _Payload()}))
    with pytest.raises(CheckpointError, match="could run code"):
        load_vlm(f"open_clip:RN50/{tmp_path}/bad.pt")


def test_a_model_that_a_configuration_names_is_shown_before_it_is_fetched(tmp_path: Path) -> None:
    text = {"hf_model_name": "owner/roberta", "hf_tokenizer_name": "owner/roberta"}
    config = {"model_cfg": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with (
        pytest.warns(UserWarning, match=r"open_clip_config\.json names owner/roberta.*fetched"),
        pytest.raises(InputError),
    ):
        load_vlm(f"open_clip:local-dir:{tmp_path}")
