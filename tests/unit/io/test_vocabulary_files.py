"""Vocabularies by name, from files, and typed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from anyregion.errors import InputError
from anyregion.io.vocabulary import builtin_vocabularies, load_vocabulary
from anyregion.vocabulary import EncodedVocabulary, Vocabulary
from tests.helpers.shared import SHARED, needs_shared


def words(spec: str | Path, **options: bool) -> Vocabulary:
    loaded = load_vocabulary(spec, **options)
    assert isinstance(loaded, Vocabulary)
    return loaded


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


COUNTS = {"coco": 80, "imagenet": 1000, "lvis": 1203, "objects365": 365, "openimages": 601}


def test_built_in_lists_and_their_counts() -> None:
    assert builtin_vocabularies() == COUNTS


@pytest.mark.parametrize("name", COUNTS)
def test_built_in_lists_load_whole(name: str) -> None:
    loaded = words(name)
    assert len(loaded) == COUNTS[name]
    assert loaded.set_aside == ()
    assert all(n == " ".join(n.split()) for n in loaded.names)
    assert words(f" {name.upper()} ").names == loaded.names


@pytest.mark.parametrize(
    ("vocabulary", "number", "name"),
    [
        ("coco", 1, "person"),
        ("coco", 13, "stop sign"),
        ("coco", 90, "toothbrush"),
        ("lvis", 1, "aerosol_can"),
        ("lvis", 655, "speaker_(stereo_equipment)"),
        ("lvis", 793, "person"),
        ("lvis", 1203, "zucchini"),
        ("objects365", 1, "Person"),
        ("objects365", 38, "Monitor/TV"),
        ("objects365", 365, "Table Tennis"),
        ("openimages", 1, "Tortoise"),
        ("openimages", 601, "Helmet"),
        ("imagenet", 0, "tench"),
        ("imagenet", 504, "coffee mug"),
        ("imagenet", 657, "missile"),
        ("imagenet", 744, "projectile"),
        ("imagenet", 999, "toilet paper"),
    ],
)
def test_known_ids(vocabulary: str, number: int, name: str) -> None:
    loaded = words(vocabulary)
    assert dict(zip(loaded.ids, loaded.names, strict=True))[number] == name


def test_lvis_synonyms_can_be_left_out() -> None:
    both = words("lvis")
    known = dict(zip(both.names, both.synonyms, strict=True))
    assert known["ashtray"] == ()
    assert known["zucchini"] == ("courgette",)
    assert sum(map(bool, both.synonyms)) == 405
    assert words("lvis", synonyms=False).names == both.names
    assert not any(words("lvis", synonyms=False).synonyms)


@needs_shared
def test_coco_agrees_with_the_annotation_files() -> None:
    path = SHARED / "data" / "coco" / "annotations" / "instances_val.json"
    known = {c["id"]: c["name"] for c in json.loads(path.read_text())["categories"]}
    for spec in ("coco", path):
        loaded = words(spec)
        assert dict(zip(loaded.ids, loaded.names, strict=True)) == known


def test_names_typed() -> None:
    loaded = words("dog, red car | automobile ,bus,, Dog")
    assert loaded.names == ("dog", "red car", "bus")
    assert loaded.synonyms == ((), ("automobile",), ())
    assert [str(a) for a in loaded.set_aside] == ["name 4: empty", "name 5: 'Dog' repeats 'dog'"]


@pytest.mark.parametrize(
    "spec", ["dog", "cabinet/shelf", "St. Bernard", "cutting/chopping board, No. 5", "x" * 5000]
)
def test_names_that_could_be_taken_for_files(spec: str) -> None:
    assert words(spec).names == tuple(n.strip() for n in spec.split(","))


@pytest.mark.parametrize(
    "spec",
    ["names.txt", "a/names.JSON", "vocab.csv", "my words.safetensors", "lists/names.yaml"],
)
def test_a_file_that_is_missing(spec: str) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_vocabulary(spec)


@pytest.mark.parametrize("spec", ["", " , ,", "\n"])
def test_nothing_typed(spec: str) -> None:
    with pytest.raises(InputError, match="empty"):
        load_vocabulary(spec)


def test_a_path_is_never_a_built_in_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load_vocabulary(Path("coco"))
    write(tmp_path, "coco", "own")
    assert len(words("coco")) == 80
    assert words("./coco").names == words(Path("coco")).names == ("own",)


def test_lines(tmp_path: Path) -> None:
    text = "\ufeff# my words\n\n dog \nred  car| automobile |\r\nC# book\nDOG\n | lonely\nنخلة\n"
    loaded = words(write(tmp_path, "names.txt", text))
    assert loaded.names == ("dog", "red car", "C# book", "نخلة")
    assert loaded.synonyms == ((), ("automobile",), (), ())
    assert [a.item for a in loaded.set_aside] == ["line 6", "line 7"]
    assert loaded.ids == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("content", "names", "synonyms", "ids"),
    [
        (["dog", "red car"], ("dog", "red car"), ((), ()), (1, 2)),
        ({"dog": ["hound", "Dog"], "cat": []}, ("dog", "cat"), (("hound",), ()), (1, 2)),
        (
            {"categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}], "images": []},
            ("dog", "cat"),
            ((), ()),
            (7, 3),
        ),
        (
            {"categories": [{"id": 2, "name": "bull", "synonyms": ["bull", "horned_cow"]}]},
            ("bull",),
            (("horned_cow",),),
            (2,),
        ),
        # duplicates lose their id with them; a name may be called `categories`
        (
            {
                "categories": [
                    {"id": 1, "name": "a"},
                    {"id": 2, "name": "A"},
                    {"id": 1, "name": "a"},
                ]
            },
            ("a",),
            ((),),
            (1,),
        ),
        ({"categories": ["kinds"]}, ("categories",), (("kinds",),), (1,)),
    ],
)
def test_json(
    tmp_path: Path,
    content: object,
    names: tuple[str, ...],
    synonyms: tuple[tuple[str, ...], ...],
    ids: tuple[int, ...],
) -> None:
    loaded = words(write(tmp_path, "names.json", json.dumps(content)))
    assert (loaded.names, loaded.synonyms, loaded.ids) == (names, synonyms, ids)


def test_csv(tmp_path: Path) -> None:
    text = 'ID,Name,Synonyms\n4,dog,hound | cur\n\n9,"car, red",\n10,Dog,\n'
    loaded = words(write(tmp_path, "names.csv", text))
    assert loaded.names == ("dog", "car, red")
    assert loaded.ids == (4, 9)
    assert loaded.synonyms == (("hound", "cur"), ())
    assert [str(a) for a in loaded.set_aside] == ["line 5: 'Dog' repeats 'dog'"]
    assert words(write(tmp_path, "only.csv", "name\ndog\ncat\n")).names == ("dog", "cat")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "empty"),
        ("a.txt", "# only\n\n", "empty"),
        ("a.txt", "dog\nca\0t\n", "line 2: a zero byte"),
        ("a.json", '["dog",\n', "line 2"),
        ("a.json", "{}", "empty"),
        ("a.json", "[]", "empty"),
        ("a.json", "3", "neither a list"),
        ("a.json", '["dog", 3]', "entry 2: 3 is not a name"),
        ("a.json", '{"0": "dog"}', "entry 1: synonyms must be a list"),
        ("a.json", '{"dog": [1]}', "entry 1: synonyms must be a list"),
        ("a.json", '{"categories": [{"name": "dog"}]}', "category 1: its id None"),
        ("a.json", '{"categories": [{"id": true, "name": "dog"}]}', "category 1: its id True"),
        ("a.json", '{"categories": [{"id": 1}]}', "entry 1: None is not a name"),
        (
            "a.json",
            '{"categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]}',
            "entry 2: 'dog' and 'cat' share id 1",
        ),
        ("a.csv", "", "line 1: the header"),
        ("a.csv", "dog,cat\n", "line 1: the header"),
        ("a.csv", "name,id\ndog,1\ncat\n", "line 3: 1 cells, 2 columns"),
        ("a.csv", "name,id\ndog,one\n", "line 2: id 'one'"),
        ("a.csv", "name,id\ndog,1\ncat,\n", "some names have an id"),
        ("a.csv", "name,id\ndog,1\ncat,1\n", "line 3: 'dog' and 'cat' share id 1"),
        ("a.csv", 'name\n"dog\n', "line 2: malformed CSV"),
        ("a.safetensors", "text", "not an encoded vocabulary"),
        ("a.jpg", "text", "a vocabulary is one of"),
    ],
)
def test_malformed_files_are_named_with_the_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(InputError) as caught:
        load_vocabulary(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert str(caught.value).count(str(path)) == 1


def test_text_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_vocabulary(tmp_path / "a.txt")


def test_an_encoded_vocabulary(tmp_path: Path) -> None:
    matrix = np.eye(2, 5, dtype=np.float32)
    EncodedVocabulary(Vocabulary(("dog", "cat")), matrix, "m").save(tmp_path / "v.safetensors")
    loaded = load_vocabulary(str(tmp_path / "v.safetensors"))
    assert isinstance(loaded, EncodedVocabulary)
    assert loaded.vocabulary.names == ("dog", "cat")
    assert (loaded.matrix == matrix).all()


def test_a_hundred_thousand_lines_load_fast(tmp_path: Path) -> None:
    path = write(
        tmp_path, "many.txt", "\n".join(f"thing {i} | thing no {i}" for i in range(100_000))
    )
    start = time.process_time()
    assert len(words(path)) == 100_000
    assert time.process_time() - start < 3


def test_published_cleaning_keeps_spellings_apart(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cell phone\ncell_phone\nwall\nwall-stuff\n")
    plain = load_vocabulary(tmp_path / "names.txt")
    published = load_vocabulary(tmp_path / "names.txt", cleaning="published")
    assert (len(plain), len(plain.set_aside)) == (2, 2)  # type: ignore[arg-type, union-attr]
    assert len(published) == 4  # type: ignore[arg-type]
