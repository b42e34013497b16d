"""Segments as masks, pooling, regions, masks of views: against libraries and by hand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from anyregion.r2o.method import align_masks  # noqa: E402
from anyregion.r2o.refinement import (  # noqa: E402  # noqa: E402
    cell_shares,
    cluster_segments,
    count_segments,
    mask_pool,
    refine,
    region_masks,
    segment_features,
    soft_masks,
)


def _blocks(size: int, cells: int) -> torch.Tensor:
    """A square of `cells` x `cells` equal blocks, numbered row by row."""
    row = torch.arange(size) * cells // size
    return row[:, None] * cells + row


@pytest.mark.parametrize(("size", "to"), [(224, 14), (224, 56), (96, 6), (50, 7), (13, 20)])
def test_soft_masks_equal_interpolated_one_hot_maps(size: int, to: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (2, size, size)))
    one_hot = torch.nn.functional.one_hot(labels, 9).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(one_hot, (to, to), mode="bilinear")
    torch.testing.assert_close(soft_masks(labels, 9, (to, to)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (50, 37), (5, 7)])
def test_cell_shares_count_pixels_and_lose_no_segment(height: int, width: int) -> None:
    rng = np.random.default_rng(1)
    labels = torch.from_numpy(rng.integers(0, 30, (3, height, width)))
    shares = cell_shares(labels, 30, (4, 5))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(3, 4, 5))
    there = torch.stack([torch.bincount(one.flatten(), minlength=30) > 0 for one in labels])
    assert torch.equal(shares.flatten(2).sum(dim=2) > 0, there)


def test_cell_shares_equal_an_average_where_cells_are_whole() -> None:
    labels = torch.from_numpy(np.random.default_rng(2).integers(0, 6, (2, 24, 24)))
    one_hot = torch.nn.functional.one_hot(labels, 6).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.avg_pool2d(one_hot, 4)
    torch.testing.assert_close(cell_shares(labels, 6, (6, 6)), expected)


def test_a_grid_finer_than_the_map_has_no_hole() -> None:
    shares = cell_shares(_blocks(4, 2)[None], 4, (8, 8))
    assert bool(shares.isfinite().all())


def test_pool_is_the_weighted_mean_with_a_floor() -> None:
    features = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]]])
    masks = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]]])
    pooled = mask_pool(features, masks)
    torch.testing.assert_close(pooled, torch.tensor([[[1.5, 0.0], [1.5, 3.0], [0.0, 0.0]]]))


def test_segments_that_look_alike_are_joined_and_every_pixel_follows() -> None:
    # four blocks; left and right halves look different
    labels = _blocks(16, 2)[None]
    features = torch.zeros(1, 2, 4, 4)
    features[:, 0, :, :2] = 1
    features[:, 1, :, 2:] = 1
    regions = refine(features, labels, 2, [np.random.default_rng(0)], (8, 8))
    assert regions.cluster_ids is not None
    a, b, c, d = regions.cluster_ids[0].tolist()
    assert a == c != b == d
    assert regions.masks.shape == (1, 2, 8, 8)
    torch.testing.assert_close(regions.masks.sum(dim=1), torch.ones(1, 8, 8))
    assert torch.equal(regions.masks[0, a, :, :4], torch.ones(8, 4))


def test_absent_segments_have_no_cluster_and_change_none() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 8, 6, 6)
    full = torch.stack([_blocks(24, 3), _blocks(24, 3)])
    fewer = full.clone()
    fewer[1] = torch.where(fewer[1] > 3, 3, fewer[1])
    pooled = segment_features(features, fewer)
    assert pooled.shape == (2, 9, 8)
    assert not pooled[1, 4:].any()
    ids = cluster_segments(pooled, 4, [np.random.default_rng(0)])
    assert (ids[1, 4:] == -1).all()
    assert (ids[0] >= 0).all()
    assert (ids[1, :4] >= 0).all()
    masks = region_masks(fewer, ids, 4, (12, 12))
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 12, 12))


def test_more_clusters_than_segments_leaves_each_its_own() -> None:
    torch.manual_seed(0)
    labels = _blocks(24, 2)[None]
    regions = refine(torch.randn(1, 8, 6, 6), labels, 50, [np.random.default_rng(0)], (6, 6))
    assert regions.cluster_ids is not None
    assert len(set(regions.cluster_ids[0].tolist())) == 4
    assert regions.masks.shape == (1, 50, 6, 6)


def test_scope_image_does_not_see_the_other_images() -> None:
    torch.manual_seed(0)
    labels = torch.stack([_blocks(24, 4)] * 3)
    features = torch.randn(3, 8, 6, 6)
    draws = [np.random.default_rng(i) for i in range(3)]
    together = refine(features, labels, 3, draws, (6, 6), scope="image")
    for i in range(3):
        alone = refine(
            features[i : i + 1], labels[i : i + 1], 3, [np.random.default_rng(i)], (6, 6),
            scope="image",
        )  # fmt: skip
        assert torch.equal(alone.masks[0], together.masks[i])


def test_without_clusters_the_segments_are_the_regions() -> None:
    labels = _blocks(24, 3)[None]
    regions = refine(torch.zeros(1, 1, 1, 1), labels, None, [], (6, 6))
    assert regions.cluster_ids is None
    one_hot = torch.nn.functional.one_hot(labels[:, 2::4, 2::4], 9).permute(0, 3, 1, 2)
    assert torch.equal(regions.masks, one_hot.float())
    assert count_segments(labels) == regions.masks.shape[1] == 9


def test_masks_of_the_whole_image_are_themselves() -> None:
    torch.manual_seed(0)
    masks = torch.rand(2, 3, 8, 8)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    flipped = torch.tensor([False, True])
    aligned = align_masks(masks, whole, flipped, (4, 4)).view(2, 3, 4, 4)
    expected = torch.nn.functional.avg_pool2d(masks, 2)
    torch.testing.assert_close(aligned[0], expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(aligned[1], expected[1].flip(-1), atol=1e-6, rtol=0)


def test_a_crop_shows_its_part_of_the_masks() -> None:
    masks = torch.zeros(1, 2, 16, 16)
    masks[0, 0, :, :8] = 1
    masks[0, 1, :, 8:] = 1
    # top, left, bottom, right: the right three quarters
    boxes = torch.tensor([[0.0, 0.25, 1.0, 1.0]])
    aligned = align_masks(masks, boxes, torch.tensor([False]), (3, 3)).view(2, 3, 3)
    # cells are a quarter of the image wide; RoIAlign reads between pixels, so borders are soft
    assert aligned[0, :, 0].min() > 0.99
    assert aligned[0, :, 1:].max() < 0.15
    assert aligned[1, :, 2].min() > 0.99
    mirrored = align_masks(masks, boxes, torch.tensor([True]), (3, 3)).view(2, 3, 3)
    assert torch.equal(mirrored, aligned.flip(-1))


def test_published_alignment_is_half_a_cell_off() -> None:
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    whole, no = torch.tensor([[0.25, 0.25, 0.75, 0.75]]), torch.tensor([False])
    right = align_masks(ramp, whole, no, (2, 2))
    published = align_masks(ramp, whole, no, (2, 2), published=True)
    torch.testing.assert_close(published - right, torch.full((1, 1, 4), 0.5))
