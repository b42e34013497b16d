"""Model folders and published checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from anyregion import AnyRegionError, CheckpointError, InputError  # noqa: E402
from anyregion.cli.main import main  # noqa: E402
from anyregion.factory import load_extractor, load_recognizer  # noqa: E402
from anyregion.model_card import ModelCard  # noqa: E402
from anyregion.regionspot.adapter import AdapterConfig  # noqa: E402
from anyregion.regionspot.checkpoint import convert_checkpoint, load_published  # noqa: E402
from anyregion.regionspot.encoder import RegionSpotEncoder  # noqa: E402
from anyregion.regionspot.pretrained import (  # noqa: E402
    Pretrained,
    adapter_from_state,
    load_adapter,
    read_config,
    resolve_part,
    write_folder,
)
from tests.helpers.toy_regionspot import SMALL, seeded, toy_encoder  # noqa: E402


def test_folder_round_trip(tmp_path: Path) -> None:
    encoder = toy_encoder(replace(SMALL, layers=2, attention="independent"), antialias=False)
    encoder.save_pretrained(tmp_path, card=ModelCard(licence="Apache-2.0", origin="a test"))
    about = read_config(tmp_path)
    assert about.adapter == encoder.adapter.config
    assert (about.localizer, about.vlm, about.antialias) == ("toy-localizer", "toy-vlm", False)
    assert about.vlm_image_size == 96
    again = load_adapter(tmp_path, about.adapter)
    for name, tensor in encoder.adapter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    card = (tmp_path / "README.md").read_text()
    assert "toy-vlm" in card
    assert "Apache-2.0" in card


def named_encoder(localizer: str, vlm: str) -> Any:
    encoder = toy_encoder()
    encoder.localizer.name, encoder.vlm.name = localizer, vlm
    return encoder


def test_local_parts_are_stated_by_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sam").mkdir(parents=True)
    (tmp_path / "clip.pt").write_bytes(b"weights")
    folder = Path("runs/model")
    named_encoder("models/sam", "open_clip:ViT-B-16/clip.pt").save_pretrained(folder)
    about = read_config(folder)
    assert about.localizer == str(tmp_path / "models/sam")
    assert about.vlm == f"open_clip:ViT-B-16/{tmp_path}/clip.pt"
    named_encoder("facebook/sam-vit-base", "open_clip:RN50/openai").save_pretrained(folder)
    about = read_config(folder)
    assert (about.localizer, about.vlm) == ("facebook/sam-vit-base", "open_clip:RN50/openai")


def test_a_folder_with_copied_parts_can_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sam").mkdir()
    (tmp_path / "sam" / "config.json").write_text("{}")
    (tmp_path / "clip.pt").write_bytes(b"weights")
    named_encoder("sam", "clip.pt").save_pretrained("model", include_frozen=True)
    Path("model").rename("elsewhere")
    about = read_config(Path("elsewhere"))
    assert (about.localizer, about.vlm) == ("localizer", "vlm.pt")
    monkeypatch.chdir("/")
    folder = tmp_path / "elsewhere"
    assert resolve_part(folder, about.localizer) == str(folder / "localizer")
    assert (folder / "localizer" / "config.json").read_text() == "{}"
    assert Path(resolve_part(folder, about.vlm)).read_bytes() == b"weights"
    # written again where they lie, they stay movable
    again = named_encoder(str(folder / "localizer"), str(folder / "vlm.pt"))
    again.save_pretrained(folder)
    assert read_config(folder).localizer == "localizer"


def test_relative_names_of_older_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "sam").mkdir(parents=True)
    run = tmp_path / "runs" / "model"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_part(Path("runs/model"), "models/sam") == "models/sam"
    monkeypatch.chdir("/")
    assert resolve_part(run, "models/sam") == str(tmp_path / "models/sam")
    assert resolve_part(run, "facebook/sam-vit-base") == "facebook/sam-vit-base"
    assert resolve_part(run, "open_clip:RN50/openai") == "open_clip:RN50/openai"
    # a folder that is nowhere, not a hub's model of an owner called `models`
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError, match=r"names models/clip.*no such file.*nothing was fetched"):
        resolve_part(run, "models/clip")
    for missing in ("sam", "a/b/sam", "./sam", "/sam", "sam.pth", "me/sam.pth", "open_clip:X/w.pt"):
        with pytest.raises(InputError, match=rf"config\.json names {missing}.*no such file"):
            resolve_part(run, missing)


def test_a_missing_part_is_not_looked_for_on_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("a hub was asked")
    )
    about = Pretrained(SMALL, "sam", "clip")
    write_folder(tmp_path, about, seeded().state_dict())
    with pytest.raises(InputError, match="names sam"):
        RegionSpotEncoder.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="nowhere: there is no such file or folder"):
        RegionSpotEncoder.from_pretrained(tmp_path, localizer="nowhere")


def test_a_localizer_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = named_encoder("mine", "clip")
    encoder.save_pretrained(tmp_path)
    monkeypatch.setattr("anyregion.regionspot.encoder.load_vlm", lambda *_, **__: encoder.vlm)
    recognizer = load_recognizer(tmp_path, localizer=encoder.localizer, vlm="clip", cache=None)
    assert isinstance(recognizer.encoder, RegionSpotEncoder)
    assert recognizer.encoder.localizer is encoder.localizer
    extractor: Any = load_extractor(localizer=encoder.localizer)
    assert extractor.localizer is encoder.localizer


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{}", "format"), ("[1]", "malformed"), ('{"format": "other"}', "format 'other'")],
)
def test_folder_refused(content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=reason):
        read_config(tmp_path)


def published(path: Path, config: AdapterConfig = SMALL, **more: Any) -> dict[str, Any]:
    state = {f"model.{n}": t for n, t in seeded(config).state_dict().items()}
    torch.save({"model": {**state, **more}}, path)
    return state


def test_convert_an_adapter(tmp_path: Path) -> None:
    path, out = tmp_path / "adapter.pth", tmp_path / "out"
    published(path, replace(SMALL, layers=2))
    with pytest.raises(CheckpointError, match="name the VLM"):
        convert_checkpoint(path, out)
    about = convert_checkpoint(path, out, vlm="some/clip")
    assert (about.adapter.layers, about.adapter.feedforward) == (2, 64)
    assert (about.localizer, about.vlm) == ("facebook/sam-vit-base", "some/clip")
    assert read_config(out).licence == "CC-BY-NC-4.0"
    assert "CC-BY-NC-4.0" in (out / "README.md").read_text()


def test_other_sizes_are_named() -> None:
    state = dict(seeded().state_dict())
    state["projector.weight"] = torch.ones(3, 3)
    del state["decoder.norm.bias"]
    with pytest.raises(CheckpointError, match=r"missing decoder\.norm\.bias.*\(3, 3\)"):
        adapter_from_state(state, SMALL, "here")


@pytest.mark.parametrize("where", ["file", "below a file", "unwritable"])
def test_convert_says_what_it_cannot_write(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    published(tmp_path / "adapter.pth")
    (tmp_path / "file").write_text("precious")
    out = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "out",
        "unwritable": Path("/proc/nowhere/out"),
    }[where]
    words = ["convert", str(tmp_path / "adapter.pth"), str(out), "--vlm", "some/clip"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"anyregion: error: {out}")
    assert ("not a folder" if where == "file" else "cannot be written") in error
    assert (tmp_path / "file").read_text() == "precious"


def test_a_full_disk_leaves_no_half_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device")

    published(tmp_path / "adapter.pth")
    monkeypatch.setattr("anyregion.torch_utils.weights.save_file", full)
    with pytest.raises(AnyRegionError, match="No space left on device"):
        convert_checkpoint(tmp_path / "adapter.pth", tmp_path / "out", vlm="some/clip")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("load", [RegionSpotEncoder.from_pretrained, load_published])
def test_a_device_that_is_not_here(tmp_path: Path, load: Any) -> None:
    """Said before a file is read."""
    with pytest.raises(InputError, match="device 'foo' cannot be used: torch offers cpu"):
        load(tmp_path / "nothing", device="foo")
