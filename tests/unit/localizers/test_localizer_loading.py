"""Localizers by name and from folders; devices and fingerprints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from anyregion.errors import CheckpointError, InputError, MissingExtraError  # noqa: E402
from anyregion.localizers.loading import load_localizer  # noqa: E402
from anyregion.localizers.sam2 import Sam2Backend  # noqa: E402
from anyregion.localizers.segmenter import LocalizerOptions, PromptableSegmenter  # noqa: E402
from tests.helpers.sam_reference import LANDSCAPE, close, photo, regions_of  # noqa: E402
from tests.helpers.small_localizers import FAMILIES, build  # noqa: E402


@pytest.mark.parametrize("family", ["sam", "sam_hq", "sam2", "sam3"])
def test_fingerprint_follows_the_weights(family: str) -> None:
    def build_seeded(**options: Any) -> PromptableSegmenter:
        torch.manual_seed(0)  # for buffers, which `spread` leaves as they are
        return build(family, **options)

    first, other, low = build_seeded(), build_seeded(), build_seeded(encoder_dtype=torch.bfloat16)
    next(iter(other.backend.model.state_dict().values())).view(-1)[0] += 1
    assert first.fingerprint == build_seeded(chunk=7).fingerprint
    assert len({first.fingerprint, other.fingerprint, low.fingerprint}) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_fingerprint_follows_configuration_and_input(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = build(family)
    built.backend.model.save_pretrained(tmp_path / "one")
    for name in ("two", "eps", "heads"):
        shutil.copytree(tmp_path / "one", tmp_path / name)

    def change(name: str, **values: Any) -> None:
        file = tmp_path / name / "config.json"
        config = json.loads(file.read_text())
        config["mask_decoder_config"] |= values
        config["transformers_version"] = "4.0.0"
        file.write_text(json.dumps(config))

    change("two")
    change("heads", num_attention_heads=2)
    config = json.loads((tmp_path / "eps" / "config.json").read_text())
    # of SAM's own decoder the eps is known, and not read from the file
    part = "vision_config" if family in ("sam", "sam_hq") else "mask_decoder_config"
    config[part]["layer_norm_eps"] = 0.1
    (tmp_path / "eps" / "config.json").write_text(json.dumps(config))
    names = ["one", "one", "two", "eps", "heads"]
    one, again, two, eps, heads = (load_localizer(tmp_path / n).fingerprint for n in names)
    assert one == again == two
    assert len({one, eps, heads}) == 3


def test_fingerprint_follows_mean_and_std() -> None:
    model = build("sam2").backend.model
    half = (0.5, 0.5, 0.5)

    class OtherMean(Sam2Backend):
        mean = half

    class OtherStd(Sam2Backend):
        std = half

    fingerprints = {
        PromptableSegmenter(backend, model, name="").fingerprint
        for backend in (Sam2Backend, OtherMean, OtherStd)
    }
    assert len(fingerprints) == 3


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_is_not_here(device: str, tmp_path: Path) -> None:
    message = f"device '{device}' cannot be used: torch offers cpu"
    with pytest.raises(InputError, match=message):
        load_localizer(tmp_path / "nothing.pth", device=device)
    with pytest.raises(InputError, match=message):
        LocalizerOptions(device=device)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_loads_as_it_was(
    localizers: dict[str, PromptableSegmenter], tmp_path: Path, family: str
) -> None:
    original = localizers[family]
    original.backend.model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if family in ("sam", "sam_hq"):
        # as the files on the hub have it; the published model has 1e-5
        config["mask_decoder_config"]["layer_norm_eps"] = 1e-6
    if family in ("sam2", "sam3"):
        config["model_type"] = {"sam2": "sam2_video", "sam3": "sam3_tracker_video"}[family]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_localizer(tmp_path, chunk=3)
    assert isinstance(loaded, PromptableSegmenter)
    assert (loaded.name, loaded.chunk) == (str(tmp_path), 3)
    image, regions = photo(LANDSCAPE), regions_of("box", LANDSCAPE, original.low_side)
    result = loaded.tokens(loaded.encode([image])[0], regions, masks=True)
    expected = original.tokens(original.encode([image])[0], regions, masks=True)
    close(result.tokens, expected.tokens, 1e-5)
    close(result.mask_logits, expected.mask_logits, 1e-4)


def test_a_whole_sam3_video_folder_gives_its_tracker(
    localizers: dict[str, PromptableSegmenter], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    tracker = localizers["sam3"].backend.model
    state = {f"tracker_model.{k}": t.clone() for k, t in tracker.state_dict().items()}
    state = {k: t for k, t in state.items() if not k.startswith("tracker_model.vision_encoder.")}
    vision = tracker.vision_encoder.state_dict()
    state |= {f"detector_model.vision_encoder.{k}": t.clone() for k, t in vision.items()}
    state |= {f"tracker_model.vision_encoder.{k}": t.clone() for k, t in vision.items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tracker_config = {**tracker.config.to_dict(), "model_type": "sam3_tracker_video"}
    config = {"model_type": "sam3_video", "tracker_config": tracker_config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_localizer(tmp_path)
    image, regions = photo(LANDSCAPE), regions_of("box", LANDSCAPE, 16)
    original = localizers["sam3"]
    result = loaded.tokens(loaded.encode([image])[0], regions)
    close(result.tokens, original.tokens(original.encode([image])[0], regions).tokens, 1e-6)


def test_incomplete_folders_are_refused_and_not_filled_with_random_numbers(
    localizers: dict[str, PromptableSegmenter], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    localizers["sam"].backend.model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    del state["mask_decoder.mask_tokens.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"mask_decoder\.mask_tokens\.weight"):
        load_localizer(tmp_path)
    state["mask_decoder.mask_tokens.weight"] = torch.zeros(4, 16)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="mask_tokens"):
        load_localizer(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError):
        load_localizer(tmp_path)


def test_other_models_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save_pretrained"):
        load_localizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match=r"'bert' is not a localizer.*sam, sam_hq, sam2"):
        load_localizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(InputError, match=r"not a localizer.*sam, sam_hq, sam2"):
        load_localizer(tmp_path)


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: there is no such file"):
        load_localizer(tmp_path / "nowhere.pth")


def test_a_hub_that_does_not_answer_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", silent)
    with pytest.raises(InputError, match=r"someone/sam.*couldn't connect.*give its path"):
        load_localizer("someone/sam")


def test_without_the_extra_the_loader_imports_and_names_it() -> None:
    # a fresh interpreter in which torch cannot be found
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from anyregion.localizers.loading import load_localizer\n"
        "import anyregion.errors as errors; errors.find_spec = lambda name: None\n"
        "try:\n    load_localizer('x')\n"
        "except errors.MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "anyregion[torch]" in done.stdout, done.stderr
    assert issubclass(MissingExtraError, ImportError)
