"""Shards on a cluster of Ray whose nodes are lost; run where the extra `[ray]` is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anyregion.errors import AnyRegionError, InputError
from anyregion.index import EngineOptions, IndexReport
from anyregion.recognizer import Recognizer
from tests.helpers.colours import ColourEncoder
from tests.helpers.indexes import half_precision, make_index, pictures
from tests.unit.index.test_create import _dies_at_photos, _refuses, files

pytest.importorskip("ray")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # what the workers import
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("SECONDS_PER_IMAGE", "0.1")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def on_ray(photos: Path, out: Path, cluster: Any, load: Any, **options: Any) -> IndexReport:
    engine = EngineOptions(name="ray", workers=3, address=cluster.address, **options)
    return make_index(photos, out, load=load, engine=engine)


def test_nodes_that_are_lost_cost_nothing(tmp_path: Path, cluster: Any) -> None:
    photos = pictures(tmp_path / "photos", 60)
    (photos / "broken.png").write_bytes(b"no")
    make_index(photos, tmp_path / "whole")
    out = tmp_path / "index"

    def wait_for(shards: int) -> None:
        deadline = time.monotonic() + 120
        while len(list(out.glob("shards/*.regions.parquet"))) < shards:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    command = [sys.executable, "-m", "tests.helpers.indexes", str(photos), str(out), "3"]
    node = cluster.add_node(num_cpus=1)
    process = subprocess.Popen([*command, cluster.address], cwd=ROOT)
    # of the three workers one has room beside the head's two, or two have
    for shards in (3, 8):
        wait_for(shards)
        cluster.remove_node(node, allow_graceful=False)
        assert process.poll() is None
        node = cluster.add_node(num_cpus=1)
    assert process.wait(timeout=120) == 0
    assert files(out) == files(tmp_path / "whole")
    assert len(list(out.glob("shards/*.regions.parquet"))) == 16


class _HangsAtPhotos(ColourEncoder):
    def encode_images(self, images: Any) -> Any:
        if images[0].shape != (64, 64, 3):  # what shows how wide embeddings are
            time.sleep(600)
        return super().encode_images(images)


def _hangs_at_photos() -> Recognizer:
    return Recognizer(_HangsAtPhotos(), cache=None)


def test_what_goes_wrong_on_a_cluster_is_said(tmp_path: Path, cluster: Any) -> None:
    photos = pictures(tmp_path / "photos", 6)
    with pytest.raises(InputError, match="no such weights"):
        on_ray(photos, tmp_path / "a", cluster, _refuses)
    with pytest.raises(AnyRegionError, match="has cost 3 workers of Ray"):
        on_ray(photos, tmp_path / "b", cluster, _dies_at_photos)
    with pytest.raises(AnyRegionError, match="silent for"):
        on_ray(photos, tmp_path / "c", cluster, _hangs_at_photos, minutes=0.2)


def test_a_cluster_without_room_is_said(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyregion.index.ray_engine._SECONDS_TO_START", 3.0)
    photos = pictures(tmp_path / "photos", 6)
    with pytest.raises(AnyRegionError, match="each takes 9 CPUs and 0 GPUs, the cluster has 1"):
        on_ray(photos, tmp_path / "index", cluster, half_precision, cpus=9)
