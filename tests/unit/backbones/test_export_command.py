"""`anyregion export`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from anyregion.backbones.loading import build_encoder, save_encoder
from anyregion.cli.main import main
from anyregion.r2o.model import Networks
from tests.helpers.published_r2o import to_published


def test_a_run_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_encoder(build_encoder("torchvision/resnet18", size=64), tmp_path / "run" / "model")
    out = str(tmp_path / "r18.pth")
    assert main(["export", str(tmp_path / "run"), "--to", "detectron2", "--out", out]) == 0
    message = capsys.readouterr().out
    assert "torchvision/resnet18, 64 px" in message
    assert "DEPTH: 18" in message
    assert "PIXEL_MEAN: [123.675" in message
    assert (tmp_path / "r18.yaml").is_file()


def test_a_published_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    encoder = build_encoder("torchvision/resnet18", size=64)
    networks = Networks(encoder, width=512, hidden=16, out=4)
    torch.save({"model": to_published(networks.state_dict())}, tmp_path / "r2o.pth")
    for more in ([], ["--backbone", "torchvision/resnet18"]):
        out = tmp_path / f"out{len(more)}.pth"
        words = [str(tmp_path / "r2o.pth"), "--to", "torchvision", "--out", str(out)]
        assert main(["export", *words, "--size", "64", *more]) == 0
        model = torchvision.models.resnet18()
        assert not model.load_state_dict(torch.load(out), strict=False).unexpected_keys
        assert torch.equal(model.conv1.weight, encoder.body.conv1.weight)


def test_other_files_want_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    out = str(tmp_path / "out.pth")
    words = ["export", str(tmp_path / "r18.pth"), "--to", "timm", "--out", out, "--size", "64"]
    assert main(words) == 1
    assert "--backbone torchvision/resnet50" in capsys.readouterr().err
    assert main([*words, "--backbone", "timm/resnet18"]) == 0
    assert "timm: resnet18" in capsys.readouterr().out


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(tmp_path / "none")
    assert main(["export", where, "--to", "timm", "--out", str(tmp_path / "o.pth")]) == 1
    assert "there is no such folder or file" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--to", "timm", "--out", str(tmp_path / "o.pth")]) == 1
    assert "without backbone.json" in capsys.readouterr().err
