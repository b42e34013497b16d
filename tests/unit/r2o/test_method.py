"""One step of R2O: what it looks at, what it leaves alone, and its special cases."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")

from torch import nn  # noqa: E402

from anyregion.backbones.encoder import Encoder  # noqa: E402
from anyregion.r2o.method import (  # noqa: E402  # noqa: E402
    R2O,
    MethodConfig,
    batch_statistics,
    mask_weights,
    similarity_losses,
)
from anyregion.r2o.model import Networks  # noqa: E402

SIZE = 32


class _Body(nn.Module):
    """Two stages with BatchNorm, strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 2, 2), nn.BatchNorm2d(12), nn.ReLU())


def _run(body: Any, images: torch.Tensor, intermediate: bool) -> torch.Tensor:
    features: torch.Tensor = body.first(images)
    return features if intermediate else body.second(features)


def _method(config: MethodConfig | None = None) -> R2O:
    torch.manual_seed(0)
    networks = Networks(Encoder("test", _Body(), _run), width=12, hidden=16, out=8)
    return R2O(networks, config).train()


def _inputs(images: int = 3, seed: int = 1) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    row = torch.arange(SIZE) * 4 // SIZE
    boxes = torch.tensor([[0.1, 0.1, 0.9, 0.9], [0.2, 0.0, 1.0, 0.8]])
    return {
        "views": torch.randn(2 * images, 3, SIZE, SIZE, generator=draw),
        "whole": torch.randn(images, 3, SIZE, SIZE, generator=draw),
        "labels": (row[:, None] * 4 + row).expand(images, SIZE, SIZE).contiguous(),
        "boxes": boxes.repeat_interleave(images, dim=0),
        "flipped": torch.tensor([False, True, False, True, False, True])[: 2 * images],
    }


def _norms(module: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for name, b in module.named_buffers() if "num_batches" not in name]


def test_the_target_starts_as_the_online_network_and_does_not_learn() -> None:
    method = _method()
    online, target = method.networks.online.state_dict(), method.networks.target.state_dict()
    assert online.keys() == target.keys()
    assert all(torch.equal(online[name], target[name]) for name in online)
    assert not any(p.requires_grad for p in method.networks.target.parameters())
    method(**_inputs(), clusters=3, seeds=[0], momentum=0.9)["loss"].mean().backward()
    assert all(p.grad is None for p in method.networks.target.parameters())
    learned = [*method.networks.online.parameters(), *method.networks.predictor.parameters()]
    assert all(p.grad is not None for p in learned)


def test_the_target_follows_before_it_looks() -> None:
    method = _method()
    with torch.no_grad():
        for parameter in method.networks.target.parameters():
            parameter.add_(1.0)
    online = [p.detach().clone() for p in method.networks.online.parameters()]
    method(**_inputs(), clusters=3, seeds=[0], momentum=0.75)
    for parameter, was in zip(method.networks.target.parameters(), online, strict=True):
        torch.testing.assert_close(parameter, was + 0.75)
    before = [p.clone() for p in method.networks.target.parameters()]
    method(**_inputs(), clusters=3, seeds=[0], momentum=None)
    assert all(
        torch.equal(a, b) for a, b in zip(before, method.networks.target.parameters(), strict=True)
    )


def test_each_batchnorm_counts_its_own_views_once_and_clustering_leaves_no_trace() -> None:
    method = _method()
    before = _norms(method.networks.target)
    method.find_regions(**{k: v for k, v in _inputs().items() if k in ("whole", "labels")},
                        clusters=3, seeds=[0])  # fmt: skip
    after = _norms(method.networks.target)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    method(**_inputs(), clusters=3, seeds=[0], momentum=0.9)
    for branch in (method.networks.online, method.networks.target):
        counts = [b for name, b in branch.named_buffers() if "num_batches" in name]
        assert [int(c) for c in counts] == [1] * len(counts)


def test_published_clustering_counts_in_the_stages_that_it_runs_only() -> None:
    method = _method(MethodConfig(published=True))
    method(**_inputs(), clusters=3, seeds=[0], momentum=0.9)
    body: Any = method.networks.target.encoder.body
    assert int(body.first[1].num_batches_tracked) == 2
    assert int(body.second[1].num_batches_tracked) == 1


def test_batch_statistics_are_restored() -> None:
    norm = nn.BatchNorm1d(2)
    still = nn.BatchNorm1d(2, track_running_stats=False)
    with batch_statistics(nn.ModuleList([norm, still])):
        norm(torch.randn(4, 2))
    assert norm.track_running_stats
    assert not still.track_running_stats
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


def test_the_mean_of_the_images_is_the_mean_over_shared_masks() -> None:
    method, inputs = _method(), _inputs()
    regions = method.find_regions(inputs["whole"], inputs["labels"], 4, [0])
    comparison = _method().compare(
        inputs["views"], regions.masks, inputs["boxes"], inputs["flipped"], 0.9
    )
    sides = zip(comparison.predicted, comparison.targets, strict=True)
    expected = torch.stack([similarity_losses(p, w) for p, w in sides]).mean(dim=0)
    torch.testing.assert_close(comparison.losses, expected)
    losses = _method()(**inputs, clusters=4, seeds=[0], momentum=0.9)["loss"]
    torch.testing.assert_close(losses.mean(), comparison.losses.mean())


def test_empty_masks_do_not_enter_the_heads() -> None:
    inputs = _inputs()
    inputs["boxes"][:] = torch.tensor([0.0, 0.0, 0.5, 0.5])  # a quarter of the image
    seen = []
    method = _method()
    method.networks.online.projector.register_forward_pre_hook(
        lambda _, rows: seen.append(rows[0].shape[0])
    )
    out = method(**inputs, clusters=None, seeds=[], momentum=0.9)
    assert seen[0] == 2 * int(out["shared_masks"].sum()) < 2 * 3 * 16


def test_no_shared_mask_is_a_zero_loss_that_back_propagates() -> None:
    inputs = _inputs()
    inputs["boxes"][:3] = torch.tensor([0.0, 0.0, 0.25, 0.25])
    inputs["boxes"][3:] = torch.tensor([0.75, 0.75, 1.0, 1.0])
    method = _method()
    out = method(**inputs, clusters=None, seeds=[], momentum=0.9)
    assert out["loss"].tolist() == [0, 0, 0]
    assert out["shared_masks"].tolist() == [0, 0, 0]
    out["loss"].mean().backward()
    learned = [*method.networks.online.parameters(), *method.networks.predictor.parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in learned)


def test_one_mask_an_image_is_byol() -> None:
    """The whole image as one region: plain average pooling, and BYOL's loss."""
    inputs = _inputs()
    inputs["labels"] = torch.zeros_like(inputs["labels"])
    losses = _method()(**inputs, clusters=None, seeds=[], momentum=0.9)["loss"]
    networks = _method().networks
    rows = networks.online.encoder(inputs["views"]).mean(dim=(2, 3))
    predicted = networks.predictor(networks.online.projector(rows))
    networks.update_target(0.9)
    swapped = torch.cat(inputs["views"].chunk(2)[::-1])
    targets = networks.target.projector(networks.target.encoder(swapped).mean(dim=(2, 3)))
    byol = 2 - 2 * nn.functional.cosine_similarity(predicted, targets)
    torch.testing.assert_close(losses, byol.view(2, -1).mean(dim=0), atol=1e-5, rtol=1e-5)


def test_weights_by_area_and_by_presence() -> None:
    one, two = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[1.0, 3.0, 0.0005]])
    assert mask_weights(one, two, by_area=False, shared_only=False).tolist() == [[1, 1, 1]]
    assert mask_weights(one, two, by_area=False, shared_only=True).tolist() == [[1, 0, 0]]
    assert mask_weights(one, two, by_area=True, shared_only=True).tolist() == [[3, 0, 0]]
    more = torch.tensor([[0.0011]])  # the published rule: above 1e-3, not above 0
    less = torch.tensor([[0.0009]])
    assert mask_weights(more, more, by_area=False, shared_only=True).item() == 1
    assert mask_weights(more, less, by_area=False, shared_only=True).item() == 0


def test_seeds_decide_the_regions() -> None:
    inputs = _inputs()
    method = _method()
    first = method.find_regions(inputs["whole"], inputs["labels"], 4, [5])
    again = method.find_regions(inputs["whole"], inputs["labels"], 4, [5])
    assert torch.equal(first.masks, again.masks)
    others = [method.find_regions(inputs["whole"], inputs["labels"], 4, [i]) for i in range(8)]
    assert any(not torch.equal(first.masks, other.masks) for other in others)


def test_mixed_precision_clusters_in_full() -> None:
    inputs = _inputs()
    method = _method()
    with torch.autocast("cpu", torch.bfloat16):
        out = method(**inputs, clusters=4, seeds=[0], momentum=0.9)
    assert out["loss"].dtype == torch.float32
    assert bool(out["loss"].isfinite().all())
