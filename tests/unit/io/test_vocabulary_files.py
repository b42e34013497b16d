"""Vocabularies by name, from files, and typed."""

from __future__ import annotations

import io
import json
import os
import threading
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
    "spec",
    [
        "dog", "St. Bernard", "cutting/chopping board, No. 5", "x" * 5000, "cutting/chopping board",
        "t.v.", "St.Bernard", "cabinet/shelf, cat", "and/or, t.v., St. Bernard", "vitamin B.12",
        "node.js, vue.js", "w/o\\with, dog", "U.S.A.", "3.5 mm jack", "a.m.",
    ],
)  # fmt: skip
def test_names_that_could_be_taken_for_files(spec: str) -> None:
    assert words(spec).names == tuple(n.strip() for n in spec.split(","))


@pytest.mark.parametrize(
    "spec",
    [
        "names.txt", "a/names.JSON", "vocab.csv", "my words.safetensors", "lists/names.yaml",
        "vocab.yaml", "names.yml", "labels.tsv", "my/labels", "labels.v2", "VOCAB.TXT", "data.xlsx",
        "./labels", "../labels", "~/my labels", "/srv/my labels", r"C:\data\labels", "a/b/c",
        "https://example.org/names.txt", "cat, dog, names.txt", "names.txt,cat",
    ],
)  # fmt: skip
def test_a_file_that_is_missing(spec: str) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_vocabulary(spec)


def test_a_path_to_a_folder_and_a_name_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat" / "old names").mkdir(parents=True)
    assert words("cat").names == ("cat",)  # as folders of classes are called
    assert words("and/or,").names == ("and/or",)
    assert words("and/or,").set_aside == ()
    with pytest.raises(InputError, match="is a folder"):
        load_vocabulary("./cat")
    with pytest.raises(InputError, match="is a folder"):
        load_vocabulary("cat/old names")
    with pytest.raises(InputError, match="there is no such file"):
        load_vocabulary("cat/new names")


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
        (["caf\u00e9", "cafe\u0301"], ("caf\u00e9",), ((),), (1,)),
        ({"names": ["cat", "dog"]}, ("cat", "dog"), ((), ()), (1, 2)),
        ({"classes": ["cat", "dog"], "nc": 2}, ("cat", "dog"), ((), ()), (1, 2)),
        ({"categories": ["cat", "dog"], "images": []}, ("cat", "dog"), ((), ()), (1, 2)),
        ({"labels": ["cat"]}, ("cat",), ((),), (1,)),
        ({"names": {"0": "cat", "2": "dog"}}, ("cat", "dog"), ((), ()), (0, 2)),
        ({"categories": {"1": "cat"}}, ("cat",), ((),), (1,)),
        ({"0": "cat", "10": "dog"}, ("cat", "dog"), ((), ()), (0, 10)),
        ({"cat": 0, "dog": 1}, ("cat", "dog"), ((), ()), (0, 1)),
        (
            {"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0}},
            ("cat", "dog"),
            ((), ()),
            (0, 1),
        ),
        ([{"id": 4, "name": "cat"}], ("cat",), ((),), (4,)),
        # several names with synonyms, of which one is called as a key is
        ({"dog": ["hound"], "cat": None}, ("dog", "cat"), (("hound",), ()), (1, 2)),
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
        ("a.json", "3", "3 is no list of names. Read are: a text file"),
        ("a.json", '"cat"', "no list of names. Read are:"),
        ("a.json", '{"names": ["a"], "classes": ["b"]}', "only one of names and classes"),
        ("a.json", '{"labels": ["tag"], "bottle": ["flask"]}', "'labels' may be a list of names"),
        ("a.json", '{"0": ["n01440764", "tench"]}', "is not a name. Read are:"),
        ("a.json", '[["cat", "kitten"], ["dog"]]', "entry 1: ['cat', 'kitten'] is not a name"),
        ("a.json", '{"names": ["a", "b"], "nc": 3}', "nc is 3, but there are 2 names"),
        ("a.json", '{"names": "cat, dog"}', "entry 1: synonyms must be a list of names"),
        ("a.json", '{"images": [], "annotations": []}', "annotations without `categories`"),
        ("a.json", '{"version": "5", "flags": {}, "shapes": []}', "Read are: a text file"),
        ("a.yaml", "names: [cat, no]", "entry 2: False is not a name. In quotes it is one"),
        ("a.yaml", "names: [cat", "line 1"),
        ("a.yaml", "names:\n  0: cat\n 1: dog\n", "line 3"),
        ("a.yml", "nc: 3\nnames: cat\n", "Read are: a text file"),
        ("a.txt", "1: cat\n1: dog\n", "line 2: 'cat' and 'dog' share id 1"),
        ("a.tsv", "cat\tdog", "a vocabulary is one of: a text file"),
        ("a.json", '["dog", 3]', "entry 2: 3 is not a name"),
        ("a.json", '{"dog": [1]}', "entry 1: synonyms must be a list"),
        ("a.json", '{"categories": [{"name": "dog"}]}', "category 1: its id None"),
        ("a.json", '{"categories": [{"id": true, "name": "dog"}]}', "category 1: its id True"),
        ("a.json", '{"categories": [{"id": 1}]}', "entry 1: None is not a name"),
        (
            "a.json",
            '{"categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]}',
            "entry 2: 'dog' and 'cat' share id 1",
        ),
        ("a.json", '{"0": "cat", "0": "dog"}', "'0' stands twice in one object"),
        ("a.json", '{"cat": ["kitten"], "cat": ["tom"]}', "'cat' stands twice in one object"),
        ("a.txt", '{"0": "cat", "0": "dog"}', "'0' stands twice in one object"),
        ("a.yaml", "train: [a]\nval: [b]\n", "a data set without `names`"),
        ("a.txt", "item {\n  id: 1\n  name: 'cat'\n}\n", "TensorFlow's label map"),
        ("a.pbtxt", "item {\n  id: 1\n  name: 'cat'\n}\n", "TensorFlow's label map"),
        ("a.txt", "<!DOCTYPE html>\n<p>not found\n", "this is a web page"),
        ("a.names", "PK\3\4abc\nd", "this is a ZIP archive"),
        ("a.txt", "0 0.5 0.5 0.1 0.1\n", "YOLO's labels"),
        ("a.csv", "name,name\ndog,cat\n", "line 1: two columns are called name"),
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
    assert str(caught.value).startswith((f"{path}: ", f"{path}, line"))
    assert message in str(caught.value)
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize(
    ("text", "names", "ids"),
    [
        ("cat, dog, bicycle", "cat dog bicycle", (1, 2, 3)),
        ("# my words\ncat,dog,bicycle,\n\n", "cat dog bicycle", (1, 2, 3)),
        ("cat; dog; bicycle", "cat dog bicycle", (1, 2, 3)),
        ("cat\tdog\tbicycle\n", "cat dog bicycle", (1, 2, 3)),
        ('"cat", "dog"', "cat dog", (1, 2)),
        ("cat,\ndog,\nbicycle\n", "cat dog bicycle", (1, 2, 3)),
        ("cat\rdog\rbicycle", "cat dog bicycle", (1, 2, 3)),
        ("cat\u2028dog\x85bicycle", "cat dog bicycle", (1, 2, 3)),
        ("cat\uff0cdog\uff0cbicycle", "cat dog bicycle", (1, 2, 3)),
        ("cat\u3001dog\u3001bicycle", "cat dog bicycle", (1, 2, 3)),
        ("cat\n  # no name\ndog\n", "cat dog", (1, 2)),
        ("'cat'\n'dog'\n", "cat dog", (1, 2)),
        ("- cat\n- dog\n", "cat dog", (1, 2)),
        ("0 cat\n1 dog\n2 bicycle\n", "cat dog bicycle", (0, 1, 2)),
        ("1 person\n2 bicycle\n13 sign\n", "person bicycle sign", (1, 2, 13)),
        ("1: cat\n2: dog\n", "cat dog", (1, 2)),
        ("0:cat\n", "cat", (0,)),
        ("7\tcat\n3\tdog\n", "cat dog", (7, 3)),
        ("1. cat\n2. dog", "cat dog", (1, 2)),
        ("1) cat\n2) dog", "cat dog", (1, 2)),
        ("0,cat\n1,dog\n", "cat dog", (0, 1)),
        ("cat: 0\ndog: 1\n", "cat dog", (0, 1)),
        ("0: cat, 1: dog", "cat dog", (0, 1)),
        ('["cat", "dog"]', "cat dog", (1, 2)),
        ("['cat', dog]\n", "cat dog", (1, 2)),
        ('{"names": {"0": "cat"}}', "cat", (0,)),
        ("nc: 2\nnames:\n  0: cat\n  1: dog\n", "cat dog", (0, 1)),
    ],
)
@pytest.mark.parametrize("place", ["names.txt", "coco.names", "labels", "standard input"])
def test_layouts_of_text(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    names: str,
    ids: tuple[int, ...],
    place: str,
) -> None:
    if place == "standard input":
        stream = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + text.encode()), encoding="ascii")
        monkeypatch.setattr("sys.stdin", stream)
        loaded = words("-")
    else:
        loaded = words(write(tmp_path, place, text))
    assert loaded.names == tuple(names.split())
    assert loaded.ids == ids
    assert loaded.set_aside == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("10 euro note\n20 euro note\n", ("10 euro note", "20 euro note")),
        ("3.5 mm jack\n6.3 mm jack", ("3.5 mm jack", "6.3 mm jack")),
        ("tench, Tinca tinca\ncock\n", ("tench, Tinca tinca", "cock")),
        ("1 euro coin\n", ("1 euro coin",)),
        ("2 wheeler\ndog\n", ("2 wheeler", "dog")),
        ("0\n1\n2\n", ("0", "1", "2")),
    ],
)
def test_lines_that_are_names_as_they_stand(
    tmp_path: Path, text: str, names: tuple[str, ...]
) -> None:
    assert words(write(tmp_path, "names.txt", text)).names == names


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("cat, dog", "one line, read as 2 names with ',' between"),
        ("0 cat\n1 dog", "the number of each line is the id of its name"),
        ("0 cat\n1 dog\nbird", "2 names begin with a number, which is part of the name"),
        ("cat, tabby\ndog", "1 lines hold commas: each line is one name"),
        ("cat dog bird", "one line without commas, read as one name: cat dog bird"),
        ("cat|dog|bird", "one line without commas, read as one name: cat|dog|bird"),
        ("cat 0\ndog 1", "2 names end in a number, which is part of the name"),
        (
            "n02123045 tabby\nn01440764 tench",
            "2 names begin with a WordNet id, which is part of the name",
        ),
    ],
)
def test_a_word_about_what_may_surprise(tmp_path: Path, text: str, note: str) -> None:
    assert words(write(tmp_path, "names.txt", text)).notes == (note,)
    assert words(write(tmp_path, "names.txt", "cat\ndog")).notes == ()


@pytest.mark.parametrize(
    ("text", "names", "ids"),
    [
        ("path: ../d\ntrain: [a, b]\nnc: 2\nnames: ['cat', 'dog']\n", "cat dog", (1, 2)),
        ("names:\n  0: cat\n  1: dog\n", "cat dog", (0, 1)),
        ("- cat\n- dog\n", "cat dog", (1, 2)),
        ("0: cat\n1: dog\n", "cat dog", (0, 1)),
        ("cat: [kitten]\ndog:\n", "cat dog", (1, 2)),
    ],
)
def test_yaml(tmp_path: Path, text: str, names: str, ids: tuple[int, ...]) -> None:
    for name in ("data.yaml", "data.YML"):
        loaded = words(write(tmp_path, name, text))
        assert loaded.names == tuple(names.split())
        assert loaded.ids == ids


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"caf\xe9", "not UTF-8 text"), (b"a\nb\0\n", "line 2: a zero byte")],
)
def test_standard_input_that_is_no_vocabulary(
    monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(InputError, match=f"^standard input: .*{message}"):
        load_vocabulary("-")
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input: closed"):
        load_vocabulary("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of Unix")
def test_a_pipe_is_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("cat\ndog\n",))
    writer.start()
    assert words(str(pipe)).names == ("cat", "dog")
    writer.join()


@needs_shared
@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("vocabulary_one_line.txt", ("cat", "dog", "bicycle")),
        ("vocabulary_names_key.json", ("cat", "dog", "bicycle")),
        ("vocabulary_id2label.json", ("cat", "dog", "bicycle")),
    ],
)
def test_files_that_were_misread(name: str, names: tuple[str, ...]) -> None:
    assert words(SHARED / "cases" / name).names == names


def test_text_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_vocabulary(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes("café\n".encode("utf-16"))
    with pytest.raises(InputError, match="this is UTF-16 text: save it as UTF-8"):
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
    # a second or two; a loop over all pairs of names would take hours
    assert time.process_time() - start < 20


def test_published_cleaning_keeps_spellings_apart(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cell phone\ncell_phone\nwall\nwall-stuff\n")
    plain = load_vocabulary(tmp_path / "names.txt")
    published = load_vocabulary(tmp_path / "names.txt", cleaning="published")
    assert (len(plain), len(plain.set_aside)) == (2, 2)  # type: ignore[arg-type, union-attr]
    assert len(published) == 4  # type: ignore[arg-type]
