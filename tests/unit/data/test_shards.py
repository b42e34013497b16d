"""Shards of both codecs: the bytes of the first version, and no wrong record after any damage."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from anyregion.data.store.shards import (
    NO_HASH,
    NOWHERE,
    Record,
    Shard,
    ShardError,
    Shards,
    ShardSpec,
    write_shard,
)
from anyregion.data.store.store import FeatureCodec
from anyregion.r2o.label_store.store import LabelMapCodec, pack

FEATURES = {
    "tokens": np.arange(8, dtype=np.float16).reshape(2, 4),
    "span": np.array([16, 24], dtype=np.float32),
}
MIRRORED = {name: values[::-1].copy() for name, values in FEATURES.items()}
MAPS = [
    values.reshape(4, 4)
    for values in (np.arange(16, dtype=np.uint8), 300 * np.arange(16, dtype=np.uint16))
]
LABEL_KEYS = np.array([5, 2**63 + 1, 7], dtype=np.uint64)


def features_shard(folder: Path) -> tuple[ShardSpec, FeatureCodec]:
    """Images 6 and 7 of a store; the second is set aside."""
    keys = np.array([6, 7], dtype=np.uint64)
    spec, codec = ShardSpec(folder / "f.safetensors", "a store", keys), FeatureCodec(mirrored=True)
    records = [
        Record((FEATURES, MIRRORED), file_hash=bytes(range(16))),
        Record(reason="gone ✂", file_hash=NO_HASH),
    ]
    write_shard(spec, codec, records)
    return spec, codec


def labels_shard(folder: Path) -> tuple[ShardSpec, LabelMapCodec]:
    """Three images, of which the second is set aside; maps of 8 and of 16 bits."""
    spec, codec = ShardSpec(folder / "l.safetensors", "a store", LABEL_KEYS), LabelMapCodec(4)
    first, last = (Record((pack(labels),)) for labels in MAPS)
    write_shard(spec, codec, [first, Record(reason="broken ✂"), last])
    return spec, codec


def test_features_are_written_as_by_the_first_version(tmp_path: Path) -> None:
    spec, _ = features_shard(tmp_path)
    with safe_open(spec.path, framework="numpy") as file:
        assert file.metadata() == {
            "format": "anyregion.shard/1",
            "identity": "a store",
            "first": "6",
            "set_aside": '{"7": "gone \\u2702"}',
            "hash": "08cd6291989f6e4e297e500fb640809c",
        }
        names = ["6/span", "6/span.flipped", "6/tokens", "6/tokens.flipped"]
        assert sorted(file.keys()) == [*names, "hashes.files", "hashes.records"]
    assert spec.path.stat().st_size == 720


def test_label_maps_are_written_as_by_the_first_version(tmp_path: Path) -> None:
    spec, _ = labels_shard(tmp_path)
    digest = hashlib.sha256(spec.path.read_bytes()).hexdigest()
    assert digest == "a2f35f423db1b5a0dbcf1d0027799fb41c0c00e6105494893063b9b650363b4a"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    features = Shard(*features_shard(tmp_path))
    assert features.records.skipped == {7: "gone ✂"}
    for part, written in enumerate((FEATURES, MIRRORED)):
        stored = features.read(0, part)
        assert {n: v.tolist() for n, v in stored.items()} == {
            n: v.tolist() for n, v in written.items()
        }
    labels = Shard(*labels_shard(tmp_path))
    assert labels.records.skipped == {2**63 + 1: "broken ✂"}
    for row, written in zip((0, 2), MAPS, strict=True):
        assert labels.read(row).dtype == written.dtype
        np.testing.assert_array_equal(labels.read(row), written)


@pytest.mark.parametrize("make", [features_shard, labels_shard])
def test_no_flipped_bit_gives_a_wrong_record(tmp_path: Path, make: Any) -> None:
    spec, codec = make(tmp_path)
    whole = spec.path.read_bytes()
    rows = [(row, part) for row in (0, len(spec.keys) - 1) for part in (0, 1)]

    def read() -> list[str]:
        shard = Shard(spec, codec)
        shard.check()
        return [
            repr(shard.read(row, part))
            for row, part in rows
            if part < shard.records.parts and int(spec.keys[row]) not in shard.records.skipped
        ]

    right = read()
    unnoticed = 0
    for at in range(len(whole)):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        spec.path.write_bytes(content)
        problem = ""
        try:
            records = read()
        except ShardError as error:
            problem = str(error)
        if problem:
            assert problem.startswith(f"{spec.path}: damaged (")
        else:
            assert records == right
            unnoticed += 1
    # what is left is the padding behind the header, at most
    assert unnoticed <= 8


def test_a_shard_of_another_store_or_place_is_refused(tmp_path: Path) -> None:
    spec, codec = features_shard(tmp_path)
    assert Shard(replace(spec, keys=None), codec).records.keys.tolist() == [6, 7]
    with pytest.raises(ShardError, match="another store"):
        Shard(replace(spec, identity="another"), codec)
    with pytest.raises(ShardError, match="another place"):
        Shard(replace(spec, keys=spec.keys - 2), codec)  # type: ignore[operator]
    with pytest.raises(ShardError, match="damaged"):
        Shard(spec, LabelMapCodec(4))


def test_records_are_located_over_shards(tmp_path: Path) -> None:
    spec, codec = labels_shard(tmp_path)
    other = ShardSpec(tmp_path / "o.safetensors", "a store", np.array([9], dtype=np.uint64))
    write_shard(other, codec, [Record((pack(MAPS[0]),))])
    gone = replace(other, path=tmp_path / "gone.safetensors")
    shards = Shards([gone, spec, other], codec, open_at_most=1)
    shard_of, row_of, skipped = shards.locate(np.array([9, 1, 7, 5], dtype=np.uint64))
    assert shard_of.tolist() == [2, NOWHERE, 1, 1]
    assert row_of.tolist() == [0, NOWHERE, 2, 0]
    assert skipped == {2**63 + 1: "broken ✂"}
    sent = pickle.loads(pickle.dumps(shards))
    for number, row in ((1, 2), (2, 0), (1, 0)):
        np.testing.assert_array_equal(sent.get(number).read(row), shards.get(number).read(row))
    assert shards.get(1) is shards.get(1)
