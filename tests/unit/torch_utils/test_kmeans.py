"""k-means in groups: the published numbers, scikit-learn's labels, and the rules in between."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from anyregion.errors import InputError  # noqa: E402
from anyregion.torch_utils.kmeans import (  # noqa: E402
    Draws,
    draw,
    kmeans,
    start_points,
)
from tests.helpers.clusters import draws_for, features  # noqa: E402
from tests.helpers.shared import SHARED, needs_shared  # noqa: E402

FIXTURE = SHARED / "fixtures" / "r2o"
pytestmark = pytest.mark.usefixtures("one_thread")


def arrays(name):
    return np.load(FIXTURE / name)


def one(array):
    return torch.from_numpy(np.asarray(array))[None]


@needs_shared
@pytest.mark.parametrize("passes", [1, 2, 200])
def test_published_case(passes):
    case = arrays("kmeans_and_lars.npz")
    result = kmeans(
        one(case["kmeans_case_x"]), 5, start=one(case["kmeans_case_init"]), max_passes=passes
    )
    expected = case[f"kmeans_case_centroids_maxiter{passes}"]
    assert result.labels[0].tolist() == case[f"kmeans_case_labels_maxiter{passes}"].tolist()
    assert np.abs(result.centres[0].numpy() - expected).max() <= 1e-6 * np.abs(expected).max()
    assert int(result.passes) == case[f"kmeans_case_n_iter_maxiter{passes}"]


@needs_shared
def test_published_step_with_zero_rows():
    case = arrays("model_outputs.npz")
    result = kmeans(one(case["kmeans_input"]), 6, start=one(case["kmeans_init_centroids"]))
    assert result.labels[0].tolist() == case["kmeans_labels"].tolist()
    difference = np.abs(result.centres[0].numpy() - case["kmeans_centroids"]).max()
    assert difference <= 1e-6 * np.abs(case["kmeans_centroids"]).max()
    assert float(result.inertia) == pytest.approx(float(case["kmeans_inertia"]), rel=1e-6)
    assert int(result.passes) == case["kmeans_n_iter"] == 14


@needs_shared
def test_published_start():
    case = arrays("kmeans_and_lars.npz")
    points = one(case["kmeans_case_x"])
    torch.manual_seed(int(case["kpp_case_seed"]))
    first = torch.randint(points.shape[1], (1,))
    trials = torch.stack([torch.rand(2 + int(math.log(9))) for _ in range(8)])
    draws = Draws(first=(first + 0.5) / points.shape[1], trials=trials[None])
    chosen = start_points(points, 9, draws=draws)
    assert chosen[0].tolist() == case["kpp_case_chosen_index"].tolist()


@needs_shared
def test_published_empty_cluster_is_filled():
    case = arrays("kmeans_and_lars.npz")
    points = one(case["kmeans_case_x"])
    result = kmeans(points, 5, start=one(case["empty_case_init"]))
    sizes = torch.bincount(result.labels[0], minlength=5)
    assert (sizes > 0).all()
    assert result.centres.isfinite().all()
    good = kmeans(points, 5, start=one(case["kmeans_case_init"]))
    assert float(result.inertia) < 1.1 * float(good.inertia)


@pytest.mark.parametrize(("k", "kinds"), [(3, 8), (16, 12), (40, 12)])
def test_same_labels_as_scikit_learn(k, kinds):
    cluster = pytest.importorskip("sklearn.cluster")
    points = features(1, 700, 64, kinds=kinds, seed=k)
    index = start_points(points, k, draws=draws_for(1, k))[0]
    start = points[:, index]
    result = kmeans(points, k, start=start)
    reference = cluster.KMeans(k, init=start[0].numpy(), n_init=1, tol=0, max_iter=200)
    reference.fit(points[0].numpy())
    assert result.labels[0].tolist() == reference.labels_.tolist()
    assert float(result.inertia) == pytest.approx(reference.inertia_, rel=1e-5)
    assert 3 <= int(result.passes) < 200  # more than one move, and it came to rest


def test_start_is_as_good_as_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    points, k = features(1, 300, 32, kinds=20), 20
    rows = points[0].double()

    def potential(centres):
        return float(torch.cdist(rows, centres.double()).square().amin(1).sum())

    inertias = [
        potential(points[0, start_points(points, k, draws=draws_for(1, k, seed))[0]])
        for seed in range(30)
    ]
    reference = [
        potential(
            torch.from_numpy(cluster.kmeans_plusplus(points[0].numpy(), k, random_state=s)[0])
        )
        for s in range(30)
    ]
    uniform = [
        potential(points[0, np.random.default_rng(s).choice(300, k, replace=False)])
        for s in range(30)
    ]
    assert np.mean(inertias) == pytest.approx(np.mean(reference), rel=0.02)
    assert np.mean(inertias) < 0.97 * np.mean(uniform)


def test_each_empty_cluster_takes_another_far_point():
    points = torch.cat(
        [torch.randn(1, 40, 3) * 0.01, torch.tensor([[[5.0, 0, 0], [0, 7.0, 0]]])], 1
    )
    start = torch.tensor([[[0.0, 0, 0], [90.0, 0, 0], [0, 0, 90.0]]])
    first = kmeans(points, 3, start=start, max_passes=1)
    assert first.labels[0, -2:].tolist() == [2, 1]  # the farthest goes to the first empty one
    assert torch.equal(first.centres[0, 1], points[0, -1])
    assert torch.allclose(first.centres[0, 0], points[0, :40].mean(0), atol=1e-6)
    end = kmeans(points, 3, start=start)
    assert torch.bincount(end.labels[0]).tolist() == [40, 1, 1]


def test_all_start_centres_the_same():
    points = features(1, 200, 16)
    result = kmeans(points, 8, start=points[:, :1].expand(-1, 8, -1))
    assert (torch.bincount(result.labels[0], minlength=8) > 0).all()
    assert result.centres.isfinite().all()


def test_absent_points_have_no_weight():
    points = features(2, 90, 24)
    present = torch.ones(2, 90, dtype=torch.bool)
    present[0, ::3] = False
    present[1, 70:] = False
    spoiled = points.masked_fill(~present[..., None], math.nan)
    draws = draws_for(2, 6)
    result = kmeans(spoiled, 6, present=present, draws=draws)
    assert (result.labels[~present] == -1).all()
    for group in range(2):
        kept = points[group, present[group]][None]
        own = Draws(first=draws.first[[group]], trials=draws.trials[[group]])
        alone = kmeans(kept, 6, draws=own)
        assert torch.equal(result.labels[group, present[group]], alone.labels[0])
        assert torch.allclose(result.centres[group], alone.centres[0], atol=1e-6)
        assert float(result.inertia[group]) == pytest.approx(float(alone.inertia), rel=1e-5)


def test_absent_points_never_start():
    points = features(1, 30, 8)
    present = torch.zeros(1, 30, dtype=torch.bool)
    present[0, [3, 7, 8, 21, 29]] = True
    for seed in range(50):
        chosen = start_points(points, 5, draws=draws_for(1, 5, seed), present=present)
        assert sorted(chosen[0].tolist()) == [3, 7, 8, 21, 29]
    for edge in (0.0, 1.0 - 2**-24):
        draws = Draws(first=torch.tensor([edge]), trials=torch.full((1, 4, 3), edge))
        chosen = start_points(points, 5, draws=draws, present=present)
        assert sorted(chosen[0].tolist()) == [3, 7, 8, 21, 29]


def test_zero_rows_take_part_when_present():
    points = features(1, 60, 16)
    points[0, 40:] = 0
    result = kmeans(points, 4, draws=draws_for(1, 4))
    assert (result.labels[0] >= 0).all()
    assert len(set(result.labels[0, 40:].tolist())) == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_more_clusters_than_points(count):
    points = features(1, count, 16)
    result = kmeans(points, 8, draws=draws_for(1, 8))
    assert len(set(result.labels[0].tolist())) == count
    assert float(result.inertia) < 1e-6
    assert result.centres.isfinite().all()
    start = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))
    result = kmeans(points, 8, start=start)
    assert len(set(result.labels[0].tolist())) == count
    assert int(result.passes) < 200


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_more_clusters_than_distinct_points(offset):
    distinct = features(1, 4, 48) + offset
    points = distinct[:, np.arange(60) % 4]
    for seed in range(10):
        result = kmeans(points, 7, draws=draws_for(1, 7, seed))
        assert len(set(result.labels[0].tolist())) == 4
        assert torch.equal(result.labels[0, :4].repeat(15), result.labels[0])
    chosen = start_points(points, 7, draws=draws_for(1, 7))[0]
    assert sorted((chosen[:4] % 4).tolist()) == [0, 1, 2, 3]
    assert chosen[4:].tolist() == [-1] * 3
    result = kmeans(points, 7, start=points[:, :7])  # 0 to 3, and three of them again
    assert torch.equal(result.labels[0, :4].repeat(15), result.labels[0])


def test_all_points_equal():
    points = features(1, 1, 32).expand(-1, 50, -1)
    result = kmeans(points, 3, draws=draws_for(1, 3))
    assert len(set(result.labels[0].tolist())) == 1
    assert torch.allclose(result.centres[0, result.labels[0, 0]], points[0, 0], atol=1e-6)


def test_group_without_points():
    points = features(3, 40, 16)
    present = torch.ones(3, 40, dtype=torch.bool)
    present[1] = False
    draws = draws_for(3, 5)
    result = kmeans(points, 5, present=present, draws=draws)
    assert (result.labels[1] == -1).all()
    assert float(result.inertia[1]) == 0
    assert result.centres.isfinite().all()
    assert torch.equal(result.labels[::2], kmeans(points, 5, draws=draws).labels[::2])
    nothing = kmeans(torch.zeros(2, 0, 8), 3, draws=draws_for(2, 3))
    assert nothing.labels.shape == (2, 0)
    assert nothing.centres.shape == (2, 3, 8)
    assert nothing.centres.isfinite().all()


@pytest.mark.parametrize("k", [1, 5, 30])
def test_groups_do_not_know_of_each_other(k):
    points = features(6, 80, 32)
    points[2] = points[2, :3].repeat_interleave(27, dim=0)[:80]  # settles long before the others
    present = torch.ones(6, 80, dtype=torch.bool)
    present[4, 50:] = False
    draws = draws_for(6, k)
    together = kmeans(points, k, present=present, draws=draws)
    if k == 5:
        assert len(set(together.passes.tolist())) > 2
    for g in range(6):
        own = Draws(first=draws.first[[g]], trials=draws.trials[[g]])
        alone = kmeans(points[[g]], k, present=present[[g]], draws=own)
        assert torch.equal(together.labels[g], alone.labels[0])
        assert torch.equal(together.passes[g], alone.passes[0])
        assert torch.allclose(together.centres[g], alone.centres[0], atol=1e-6)


def test_same_seed_same_bits():
    points = features(4, 120, 32)
    first, second = (kmeans(points, 7, draws=draws_for(4, 7, 5)) for _ in range(2))
    for name in ("labels", "centres", "inertia", "passes"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    other = kmeans(points, 7, draws=draws_for(4, 7, 6))
    assert not torch.equal(first.labels, other.labels)


def test_draws_of_a_group_follow_from_its_generator():
    both = draw([np.random.default_rng(1), np.random.default_rng(2)], 128)
    alone = draw([np.random.default_rng(2)], 128)
    assert torch.equal(both.trials[1], alone.trials[0])
    assert both.first[1] == alone.first[0]
    assert both.trials.shape == (2, 127, 6)
    assert draw([np.random.default_rng(0)], 1).trials.shape[:2] == (1, 0)


def test_far_from_the_origin():
    """Float32 products of raw rows would lose the differences."""
    points = features(1, 200, 16)
    draws = draws_for(1, 6)
    near, far = kmeans(points, 6, draws=draws), kmeans(points.double().add(300), 6, draws=draws)
    assert (near.labels == far.labels).float().mean() > 0.95
    assert float(far.inertia) == pytest.approx(float(near.inertia), rel=0.02)


@pytest.mark.parametrize(("autocast", "precision"), [(True, "highest"), (False, "medium")])
def test_callers_precision_changes_nothing(autocast, precision):
    points = features(2, 150, 64).requires_grad_()
    draws = draws_for(2, 9)
    expected = kmeans(points, 9, draws=draws)
    held = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            result = kmeans(points, 9, draws=draws)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(held)
    for name in ("labels", "centres", "inertia", "passes"):
        assert torch.equal(getattr(result, name), getattr(expected, name))
    assert result.centres.dtype is torch.float32
    assert not result.centres.requires_grad


def test_max_passes_is_the_most():
    points = features(1, 400, 16)
    for limit in range(1, 6):
        assert int(kmeans(points, 10, draws=draws_for(1, 10), max_passes=limit).passes) == limit


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_broken_points_are_named(value):
    points = features(3, 20, 8)
    points[2, 4, 1] = value
    with pytest.raises(InputError, match="group 2"):
        kmeans(points, 3, draws=draws_for(3, 3))
    with pytest.raises(InputError, match="group 2"):
        start_points(points, 3, draws=draws_for(3, 3))


def test_wrong_arguments():
    points, draws = features(2, 20, 8), draws_for(2, 3)
    start = points[:, :3]
    with pytest.raises(InputError, match="either start"):
        kmeans(points, 3)
    with pytest.raises(InputError, match="either start"):
        kmeans(points, 3, start=start, draws=draws)
    with pytest.raises(InputError, match="groups, points, numbers"):
        kmeans(points[0], 3, start=start)
    with pytest.raises(InputError, match="floating"):
        kmeans(points.long(), 3, start=start)
    with pytest.raises(InputError, match="at least one"):
        kmeans(points, 0, start=start)
    with pytest.raises(InputError, match="at least one pass"):
        kmeans(points, 3, start=start, max_passes=0)
    with pytest.raises(InputError, match="start centres are"):
        kmeans(points, 4, start=start)
    with pytest.raises(InputError, match="start centres"):
        kmeans(points, 3, start=start * math.nan)
    with pytest.raises(InputError, match="4 clusters"):
        kmeans(points, 4, draws=draws)
    with pytest.raises(InputError, match="2 groups"):
        kmeans(points, 3, draws=draws_for(1, 3))
    with pytest.raises(InputError, match="present is"):
        kmeans(points, 3, draws=draws, present=torch.ones(2, 19, dtype=torch.bool))
