"""Names, prompts, encoding, the cache and the file of an encoded vocabulary."""

from __future__ import annotations

import json
import os
import subprocess
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from anyregion.errors import InputError
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, clean_name, encode_vocabulary


class Letters:
    """Counts letters: an encoder whose answers can be worked out by hand, and whose calls count."""

    def __init__(self, fingerprint: str = "letters", templates: Sequence[str] = ("{}",)) -> None:
        self.fingerprint = fingerprint
        self.templates = tuple(templates)
        self.calls: list[list[str]] = []

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        rows = np.zeros((len(texts), 128), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for letter in text:
                row[ord(letter) % 128] += 1
        return rows

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        return [not text.isascii() for text in texts]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))


def test_duplicates_and_empty_names_are_set_aside() -> None:
    words = Vocabulary.from_names(
        ["dog", " ", "red  car", "DOG", "_", "Red car "],
        synonyms=[["hound"], [], [], ["cur"], [], []],
        ids=[5, 6, 7, 8, 9, 10],
    )
    assert words.names == ("dog", "red car")
    assert words.synonyms == (("hound",), ())
    assert words.ids == (5, 7)
    assert [str(a) for a in words.set_aside] == [
        "name 1: empty",
        "name 3: 'DOG' repeats 'dog'",
        "name 4: empty",
        "name 5: 'Red car ' repeats 'red  car'",
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("dog", "\uff44\uff4f\uff47"),
        ("dog", "d\u200bog"),
        ("dog", "do\u00adg"),
        ("dog", "\ufeffdog"),
        ("dog", "\u202edog\u202c"),
        ("red car", "red\u00a0car"),
        ("red car", "red\u3000\u2009car"),
        ("red car", "red\uff3fcar"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u2764", "\u2764\ufe0f"),
        ("\u01c5", "\u01c6"),
        ("dog", "do\x07g"),
        ("wall", "wall\uff0dstuff"),
    ],
)
def test_names_that_look_alike_are_one(first: str, second: str) -> None:
    for names in ([first, second], [second, first]):
        words = Vocabulary.from_names(names)
        assert len(words) == 1
        assert words.set_aside[0].reason == f"{names[1]!r} repeats {names[0]!r}"


def test_a_name_stays_as_it_is_written_but_for_control_characters() -> None:
    words = Vocabulary.from_names(
        ["caf\u0065\u0301", "\x1b[31mred\x07 \x85car", "\u200b", "\uff41"]
    )
    assert words.names == ("caf\u0065\u0301", "[31mred car", "\uff41")
    assert [str(a) for a in words.set_aside] == ["name 2: empty"]
    # what means a thing apart stays apart
    assert len(Vocabulary.from_names(["resume", "r\u00e9sum\u00e9", "\u0430", "a"])) == 4


def test_halves_of_characters_become_the_replacement_character() -> None:
    words = Vocabulary.from_names(
        ["cat \ud83d", "dog", "\ud83d\ude00 face", "cat \ud83e"],
        synonyms=[[], ["\ude00"], [], []],
        templates=["a {} \udcff"],
    )
    assert words.names == ("cat \ufffd", "dog", "\U0001f600 face")
    assert words.synonyms == ((), ("\ufffd",), ())
    assert words.templates == ("a {} \ufffd",)
    assert [note.partition(":")[0] for note in words.notes] == [
        "name 0", "name 1", "name 2", "name 3", "template 'a {} \ufffd'",
    ]  # fmt: skip
    again = replace(words, templates=words.templates)
    assert again.notes == words.notes
    assert [a.item for a in words.set_aside] == ["name 3"]
    assert Vocabulary(("\ud83d",)).names == ("\ufffd",)


def test_ids_count_from_one_unless_given() -> None:
    assert Vocabulary.from_names(["a", "b"]).ids == (1, 2)
    assert len(Vocabulary(("a", "b"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, "empty"),
        ({"names": ["", " "]}, "empty"),
        ({"names": "dog"}, "list of strings"),
        ({"names": ["dog", 3]}, "name 1 is int"),
        ({"names": ["dog"], "ids": [1, 2]}, "1 names but 2 ids"),
        ({"names": ["dog"], "synonyms": []}, "1 names but 0 synonyms"),
        ({"names": ["dog", "cat"], "ids": [1, 1]}, "share a category id"),
        ({"names": ["dog"], "templates": []}, "templates must not be empty"),
        ({"names": ["dog"], "templates": ["a photo"]}, "must hold one"),
        ({"names": ["dog"], "templates": ["{} and {}"]}, "must hold one"),
        ({"names": ["dog"], "cleaning": "hard"}, "cleaning must be"),
    ],
)
def test_what_is_no_vocabulary(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Vocabulary.from_names(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "plain", "published"),
    [
        ("dog", "dog", "dog"),
        ("cell_phone", "cell phone", "cell_phone"),
        ("yoke_(animal_equipment)", "yoke (animal equipment)", "yoke_(animal_equipment)"),
        ("window-other", "window", "window"),
        ("wall-other-merged", "wall", "wall"),
        ("water-stuff", "water", "water"),
        ("other-thing", "other-thing", "other-thing"),
        ("a__b", "a b", "a__b"),
    ],
)
def test_cleaning(name: str, plain: str, published: str) -> None:
    assert clean_name(name) == plain
    assert clean_name(name, "published") == published


def test_prompts_are_every_template_of_every_word() -> None:
    words = Vocabulary.from_names(["cell_phone", "dog"], synonyms=[["mobile"], []])
    assert words.prompts(["a {}.", "{}"]) == [
        ["a cell phone.", "cell phone", "a mobile.", "mobile"],
        ["a dog.", "dog"],
    ]


def test_rows_are_the_mean_of_the_raw_embeddings_at_length_one() -> None:
    encoder = Letters(templates=("aa{}", "b{}"))
    words = Vocabulary.from_names(["c", "d"], synonyms=[["ee"], []])
    got = encode_vocabulary(words, encoder, cache=None)
    # aac + bc + aaee + bee, each counted, not normalised before the mean
    expected = np.zeros((2, 128))
    expected[0, [ord(c) for c in "abce"]] = [4, 2, 2, 4]
    expected[1, [ord(c) for c in "abd"]] = [2, 1, 2]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert got.matrix.dtype == np.float32
    np.testing.assert_allclose(got.matrix, expected, atol=1e-6)
    assert got.model == "letters"


def test_own_templates_go_before_the_models() -> None:
    encoder = Letters(templates=("a photo of {}",))
    encode_vocabulary(Vocabulary.from_names(["dog"], templates=["my {}"]), encoder, cache=None)
    assert encoder.calls == [["my dog"]]


def test_unreadable_names_are_reported_as_they_were_given() -> None:
    words = Vocabulary.from_names(["dog", "красная_машина"])
    assert encode_vocabulary(words, Letters()).unreadable == ("красная_машина",)
    # also from the cache, and in the spelling of the vocabulary that asks
    assert encode_vocabulary(words, Letters()).unreadable == ("красная_машина",)
    other = Vocabulary.from_names(["dog", "красная машина"])
    assert encode_vocabulary(other, Letters()).unreadable == ("красная машина",)


def test_a_second_encoding_comes_from_the_cache() -> None:
    words = Vocabulary.from_names(["dog", "cat"])
    first, second = Letters(), Letters()
    a = encode_vocabulary(words, first)
    b = encode_vocabulary(Vocabulary.from_names(["dog", "cat"], ids=[8, 9]), second)
    assert len(first.calls) == 1
    assert second.calls == []
    assert (a.matrix == b.matrix).all()
    assert b.vocabulary.ids == (8, 9)  # the caller's vocabulary, not the one of the file


@pytest.mark.parametrize(
    ("words", "encoder"),
    [
        (Vocabulary.from_names(["cat", "dog"]), Letters()),
        (Vocabulary.from_names(["dog", "cat"], synonyms=[["hound"], []]), Letters()),
        (Vocabulary.from_names(["dog", "cat"], templates=["a {}"]), Letters()),
        (Vocabulary.from_names(["dog", "cat"]), Letters(templates=("the {}",))),
        (Vocabulary.from_names(["dog", "cat"]), Letters("another model")),
    ],
)
def test_the_cache_is_keyed_by_all_that_matters(words: Vocabulary, encoder: Letters) -> None:
    encode_vocabulary(Vocabulary.from_names(["dog", "cat"]), Letters())
    encode_vocabulary(words, encoder)
    assert encoder.calls


def test_synonyms_and_names_do_not_run_together_in_the_key() -> None:
    encode_vocabulary(Vocabulary.from_names(["a", "b"], synonyms=[["c"], []]), Letters())
    encoder = Letters()
    encode_vocabulary(Vocabulary.from_names(["a", "b"], synonyms=[[], ["c"]]), encoder)
    assert encoder.calls


def test_no_cache_reads_and_writes_nothing(tmp_path: Path) -> None:
    words = Vocabulary.from_names(["dog"])
    encode_vocabulary(words, Letters(), cache=None)
    assert not (tmp_path / "cache").exists()


def test_a_broken_cache_is_made_again(tmp_path: Path) -> None:
    words = Vocabulary.from_names(["dog"])
    right = encode_vocabulary(words, Letters(), cache=tmp_path)
    (kept,) = tmp_path.glob("*.safetensors")
    whole = kept.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\0" * 100):
        kept.write_bytes(broken)
        again = encode_vocabulary(words, Letters(), cache=tmp_path)
        assert (again.matrix == right.matrix).all()
        assert kept.read_bytes() == whole


def rewrite(path: Path, change: Callable[[dict[str, Any], NDArray[np.float32]], None]) -> None:
    """Change what a file of an encoded vocabulary holds, as another program would."""
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads(file.metadata()["anyregion_vocabulary"])
        matrix = file.get_tensor("matrix").copy()
    change(metadata, matrix)
    save_file({"matrix": matrix}, path, {"anyregion_vocabulary": json.dumps(metadata)})


def swap_rows(_: dict[str, Any], matrix: NDArray[np.float32]) -> None:
    matrix[:] = matrix[::-1].copy()


def put_nan(_: dict[str, Any], matrix: NDArray[np.float32]) -> None:
    matrix[0, 0] = np.nan


CHANGES: dict[str, Callable[[dict[str, Any], NDArray[np.float32]], None]] = {
    "rows swapped": swap_rows,
    "rows swapped, no hash": lambda m, x: (m.pop("sha256"), swap_rows(m, x))[1],
    "not a number": put_nan,
    "names swapped": lambda m, _: m.update(names=m["names"][::-1]),
    "other names": lambda m, _: m.update(names=["bird", "fish"]),
    "names of no text": lambda m, _: m.update(names=[1, 2]),
    "another model": lambda m, _: m.update(model="other"),
    "other templates": lambda m, _: m.update(templates=["not {}"]),
    "unreadable": lambda m, _: m.update(unreadable=["dog"]),
    "as the first version wrote it": lambda m, _: m.pop("sha256"),
    "a hash of no text": lambda m, _: m.update(sha256=3),
}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"synonyms": ["kitten", "puppy"]}, "'kitten' is no list of text"),
        ({"synonyms": "ab"}, "synonyms must be a list, not one str"),
        ({"synonyms": [["kitten"], [3]]}, r"\[3\] is no list of text"),
        ({"ids": [1, 2.5]}, "id 2.5 is not a whole number"),
        ({"ids": 7}, "ids must be a list, not one int"),
        ({"templates": "a photo of {}"}, "templates must be a list, not one str"),
        ({"templates": [3]}, "template 3 must hold one"),
    ],
)
def test_columns_of_another_kind_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Vocabulary.from_names(["cat", "dog"], **columns)


@pytest.mark.parametrize("room", ["none", "too little"])
def test_a_full_disk_costs_the_cache_alone(tmp_path: Path, room: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        (disk / "full").write_bytes(bytes(4096 * (4 if room == "none" else 3)))
        words = Vocabulary.from_names([f"name {i}" for i in range(2000)])
        encoded = encode_vocabulary(words, Letters(), cache=disk / "sub")
        assert len(encoded.matrix) == 2000
        assert not list(disk.rglob("*.safetensors")), "what is not whole is no cache"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_cache_is_not_believed(tmp_path: Path, change: str) -> None:
    words = Vocabulary.from_names(["dog", "cat"])
    right = encode_vocabulary(words, Letters(), cache=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    rewrite(path, CHANGES[change])
    encoder = Letters()
    again = encode_vocabulary(words, encoder, cache=tmp_path)
    assert encoder.calls
    assert (again.matrix == right.matrix).all()
    assert again.unreadable == ()
    assert path.read_bytes() == whole
    encoder = Letters()
    encode_vocabulary(words, encoder, cache=tmp_path)
    assert not encoder.calls


@pytest.mark.parametrize(
    ("other", "encoder"),
    [
        (Vocabulary.from_names(["cat", "dog"]), Letters()),
        (Vocabulary.from_names(["dog", "cat"], synonyms=[["hound"], []]), Letters()),
        (Vocabulary.from_names(["dog", "cat"], templates=["a {}"]), Letters()),
        (Vocabulary.from_names(["dog", "cat"]), Letters("another model")),
        (Vocabulary.from_names(["dog", "cat"]), Letters(templates=("the {}",))),
    ],
)
def test_a_whole_entry_in_anothers_place_is_not_believed(
    tmp_path: Path, other: Vocabulary, encoder: Letters
) -> None:
    words = Vocabulary.from_names(["dog", "cat"])
    right = encode_vocabulary(words, Letters(), cache=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    encode_vocabulary(other, encoder, cache=tmp_path / "other")
    (foreign,) = (tmp_path / "other").glob("*.safetensors")
    path.write_bytes(foreign.read_bytes())
    assert (encode_vocabulary(words, Letters(), cache=tmp_path).matrix == right.matrix).all()
    assert path.read_bytes() == whole


@pytest.mark.skipif(os.name != "posix", reason="permissions of Unix")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_cache_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        encode_vocabulary(Vocabulary.from_names(["dog"]), Letters())
    finally:
        os.umask(before)
    folders = [tmp_path / "cache", tmp_path / "cache" / "vocabularies"]
    (file,) = folders[1].iterdir()
    assert [p.stat().st_mode & 0o777 for p in (*folders, file)] == [0o700, 0o700, 0o600]


@pytest.mark.skipif(os.name != "posix", reason="permissions of Unix")
def test_an_open_cache_is_closed_but_not_a_folder_of_the_user(tmp_path: Path) -> None:
    older, own = tmp_path / "cache" / "vocabularies", tmp_path / "own"
    older.mkdir(parents=True)
    own.mkdir()
    for folder in (older, own):
        folder.chmod(0o755)
    words = Vocabulary.from_names(["dog"])
    encode_vocabulary(words, Letters())
    encode_vocabulary(words, Letters(), cache=own)
    assert [p.stat().st_mode & 0o777 for p in (older, own)] == [0o700, 0o755]
    assert {p.stat().st_mode & 0o777 for f in (older, own) for p in f.iterdir()} == {0o600}


def test_an_own_file_loads_without_a_hash_and_not_with_a_wrong_one(tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    saved = encode_vocabulary(Vocabulary.from_names(["dog", "cat"]), Letters(), cache=None)
    saved.save(path)
    rewrite(path, lambda m, _: m.pop("sha256"))
    loaded = EncodedVocabulary.load(path)
    assert (loaded.matrix == saved.matrix).all()
    assert loaded.vocabulary == saved.vocabulary
    with pytest.raises(InputError, match="without a hash"):
        EncodedVocabulary.load(path, hash_required=True)
    saved.save(path)
    rewrite(path, swap_rows)
    with pytest.raises(InputError, match=r"words\.safetensors: damaged or changed"):
        EncodedVocabulary.load(path)


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    got = encode_vocabulary(Vocabulary.from_names(["dog"]), Letters(), cache=in_the_way)
    assert got.matrix.shape == (1, 128)


def test_texts_go_in_batches_and_progress_counts_names() -> None:
    names = [f"thing {i}" for i in range(500)]
    encoder = Letters(templates=[f"{i} {{}}" for i in range(81)])
    seen: list[tuple[int, int]] = []
    got = encode_vocabulary(
        Vocabulary.from_names(names), encoder, cache=None, progress=lambda *p: seen.append(p)
    )
    assert max(len(call) for call in encoder.calls) <= 8192
    assert len(encoder.calls) == 5
    assert seen[-1] == (500, 500)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    alone = encode_vocabulary(Vocabulary.from_names(names[200:202]), encoder, cache=None)
    np.testing.assert_array_equal(got.matrix[200:202], alone.matrix)


def test_a_name_with_more_prompts_than_a_batch_is_still_encoded() -> None:
    encoder = Letters(templates=[f"{i} {{}}" for i in range(9000)])
    assert encode_vocabulary(
        Vocabulary.from_names(["a", "b"]), encoder, cache=None
    ).matrix.shape == (
        2,
        128,
    )


def test_many_prompts_never_stand_in_memory_together() -> None:
    class Narrow(Letters):
        def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.ones((len(texts), 4), np.float32)

    words = Vocabulary.from_names([f"thing {i}" for i in range(5000)])
    encoder = Narrow(templates=[f"{i} " + "a photo of a rather long kind {}" for i in range(81)])
    tracemalloc.start()
    encode_vocabulary(words, encoder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # all 405,000 prompts at once would take more than 40 MB


def test_a_name_without_direction_is_named() -> None:
    class Silent(Letters):
        def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.array([[0.0 if t == "cat" else 1.0] for t in texts], np.float32)

    with pytest.raises(InputError, match="'cat'"):
        encode_vocabulary(Vocabulary.from_names(["dog", "cat"]), Silent(), cache=None)


def test_saved_and_loaded_whole(tmp_path: Path) -> None:
    words = Vocabulary.from_names(
        ["dog", "кошка"],
        synonyms=[["hound"], []],
        templates=["a {}"],
        ids=[3, 9],
        cleaning="published",
    )
    saved = encode_vocabulary(words, Letters(), cache=None)
    saved.save(tmp_path / "new" / "words.safetensors")
    loaded = EncodedVocabulary.load(tmp_path / "new" / "words.safetensors")
    assert loaded.vocabulary == saved.vocabulary
    assert loaded.model == saved.model
    assert loaded.unreadable == ("кошка",)
    assert loaded.matrix.dtype == np.float32
    assert (loaded.matrix == saved.matrix).all()


@pytest.mark.parametrize("kind", ["missing", "text", "other", "rows", "dtype", "names", "json"])
def test_files_that_are_no_vocabulary(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "v.safetensors"
    about = (
        '{"names": ["a"], "synonyms": [[]], "templates": null, "ids": [1], "cleaning": "plain", '
        '"unreadable": [], "model": "m"}'
    )
    matrix = np.ones((1, 4), np.float32)
    if kind == "text":
        path.write_text("dog")
    elif kind == "other":
        save_file({"matrix": matrix}, path)
    elif kind == "rows":
        save_file({"matrix": np.ones((2, 4), np.float32)}, path, {"anyregion_vocabulary": about})
    elif kind == "dtype":
        save_file({"matrix": matrix.astype(np.float64)}, path, {"anyregion_vocabulary": about})
    elif kind == "names":
        save_file({"matrix": matrix}, path, {"anyregion_vocabulary": about.replace("names", "n")})
    elif kind == "json":
        save_file({"matrix": matrix}, path, {"anyregion_vocabulary": about[:-5]})
    with pytest.raises(InputError, match=r"v\.safetensors"):
        EncodedVocabulary.load(path)


def test_a_hundred_thousand_names() -> None:
    class Hashed(Letters):
        def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.array([[len(t), 1.0] for t in texts], np.float32)

    names = [f"thing {i}" for i in range(100_000)]
    got = encode_vocabulary(Vocabulary.from_names(names), Hashed())
    assert got.matrix.shape == (100_000, 2)
