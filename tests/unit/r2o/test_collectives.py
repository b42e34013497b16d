"""Points of several processes, brought together, are clustered as one process clusters them."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from anyregion.r2o.collectives import gather_points  # noqa: E402
from anyregion.torch_utils.kmeans import kmeans  # noqa: E402
from tests.helpers.clusters import draws_for, features  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_process_gathers_nothing():
    points, present = features(1, 9, 4), torch.ones(1, 9, dtype=torch.bool)
    everything, everyone, own = gather_points(points, present)
    assert everything is points
    assert everyone is present
    assert own == slice(0, 9)


def _part(rank: int, folder: str, sizes: list[int]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(sizes)
    )
    points, present = _shared_points(sum(sizes))
    begin = sum(sizes[:rank])
    mine = slice(begin, begin + sizes[rank])
    everything, everyone, own = gather_points(points[:, mine], present[:, mine])
    unmasked = gather_points(points[:, mine], None)
    result = kmeans(everything, 7, present=everyone, draws=draws_for(1, 7))
    torch.save(
        {
            "own": [own.start, own.stop],
            "same": torch.equal(everything, points) and torch.equal(everyone, present),
            "unmasked": unmasked[1] is None and torch.equal(unmasked[0], points),
            "labels": result.labels[:, own],
        },
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def _shared_points(count: int):
    present = torch.ones(1, count, dtype=torch.bool)
    present[0, ::5] = False
    return features(1, count, 16), present


def test_two_processes_cluster_as_one(tmp_path: Path):
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    sizes = [70, 41]
    torch.multiprocessing.spawn(_part, (str(tmp_path), sizes), nprocs=2)
    points, present = _shared_points(sum(sizes))
    expected = kmeans(points, 7, present=present, draws=draws_for(1, 7)).labels
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(part["same"] and part["unmasked"] for part in parts)
    assert [part["own"] for part in parts] == [[0, 70], [70, 111]]
    assert torch.equal(torch.cat([part["labels"] for part in parts], dim=1), expected)
