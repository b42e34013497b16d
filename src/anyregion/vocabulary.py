"""Vocabularies: the names that regions may be given, and the matrix of their text embeddings."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from anyregion.errors import InputError, SetAside
from anyregion.files import atomic_path, cache_folder, private_folder, valid_text, write_json

if TYPE_CHECKING:
    from anyregion.region_encoder import RegionClassifier

Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""

Cleaning: TypeAlias = Literal["plain", "published"]

HALVES = "halves of characters (lone surrogates) became \ufffd"
"""What is said of a text that is none; see `valid_text`."""
_ENDING = re.compile(r"(-(other|merged|stuff))+$")  # COCO has `wall-other-merged`
# what no one sees: control characters, and what Unicode calls ignorable (zero-width, directions)
_CONTROL = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
_CONTROLS = re.compile(f"[{_CONTROL}]")
_UNSEEN = re.compile(
    f"[{_CONTROL}\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
# prompts that go to the text encoder together: 12 MB of embeddings, and progress every few seconds
_TEXTS_AT_ONCE = 8192


class TextEncoder(Protocol):
    """A text model: words to embeddings. Every recogniser has one.

    One whose names depend on each other has a method `adapt_vocabulary` too: from the matrix
    `(C, E)` of a whole vocabulary, rows of length 1, to what regions are compared with, `(C, F)`,
    rows of length 1.

    Attributes:
        fingerprint: a hash or name that changes whenever the embeddings would.
        templates: the prompt templates that the model is used with unless others are given.
    """

    @property
    def fingerprint(self) -> str:
        """See the class."""
        ...

    @property
    def templates(self) -> tuple[str, ...]:
        """See the class."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Embed each text, `(len(texts), E)` float32, not normalised."""
        ...

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text holds a word that the model has no pieces for."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """Names, in order, each with synonyms; `matrix` rows follow the same order once encoded.

    Duplicate names (whatever their case, their Unicode form and, if `plain`, their spelling) and
    empty ones are left out and listed in `set_aside`. Halves of surrogate pairs become U+FFFD.

    Attributes:
        names: what is reported for a region.
        synonyms: per name other words for the same thing; all of them are averaged.
        templates: prompt templates with one `{}`; None leaves the choice to the model.
        ids: category ids for COCO JSON; 1, 2, ... unless given.
        cleaning: `plain` turns underscores into spaces and drops the endings `-other`, `-merged`
            and `-stuff`; `published` drops the endings only, as RegionSpot's code does.
        set_aside: duplicates and empty names, by `from_names`.
        notes: how a file was read where that may surprise, and which names are not as they stood.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...] = ()
    templates: tuple[str, ...] | None = None
    ids: tuple[int, ...] = ()
    cleaning: Cleaning = "plain"
    set_aside: tuple[SetAside, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("the vocabulary is empty: give at least one name")
        count = len(self.names)
        # frozen, so the usual values are put in past the dataclass
        if not self.synonyms:
            object.__setattr__(self, "synonyms", ((),) * count)
        # neither a tokenizer nor a file takes half a character
        if not all(map(str.isascii, self.names)):
            object.__setattr__(self, "names", tuple(map(valid_text, self.names)))
        synonyms = tuple(tuple(map(valid_text, words)) for words in self.synonyms)
        object.__setattr__(self, "synonyms", synonyms)
        if len(set(self.names)) != count or not all(name.strip() for name in self.names):
            raise InputError("names repeat or are empty: Vocabulary.from_names sets those aside")
        if not self.ids:
            object.__setattr__(self, "ids", tuple(range(1, count + 1)))
        if len(self.synonyms) != count or len(self.ids) != count:
            raise InputError(f"{count} names but other numbers of synonyms or ids")
        if len(set(self.ids)) != count:
            raise InputError("two names of the vocabulary share a category id")
        if self.templates is not None:
            if not self.templates:
                raise InputError("templates must not be empty; leave them out for the model's own")
            for template in self.templates:
                if not isinstance(template, str) or template.count("{}") != 1:
                    raise InputError(f"template {template!r} must hold one {{}}")
            templates = tuple(map(valid_text, self.templates))
            pairs = zip(templates, self.templates, strict=True)
            notes = (f"template {new!r}: {HALVES}" for new, stated in pairs if new != stated)
            object.__setattr__(self, "notes", (*self.notes, *notes))
            object.__setattr__(self, "templates", templates)
        if self.cleaning not in ("plain", "published"):
            raise InputError(f"cleaning must be plain or published, not {self.cleaning!r}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        *,
        synonyms: Sequence[Sequence[str]] | None = None,
        templates: Sequence[str] | None = None,
        ids: Sequence[int] | None = None,
        cleaning: Cleaning = "plain",
        places: Sequence[str] | None = None,
    ) -> Vocabulary:
        """Build from names as they come: duplicates and empty names are reported, not kept.

        Args:
            names, synonyms, templates, ids, cleaning: see the class.
            places: what `set_aside` calls each name: the line of a file, say.

        Raises:
            InputError: no usable name, or a name that is not text.
        """
        # a string is a sequence of strings, too: its letters
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise InputError(
                f"names must be a list of strings, not one {type(names).__name__} "
                "(load_vocabulary reads files and built-in lists)"
            )
        # before any name is left out, or the columns would not match any more
        for column, values in (("synonyms", synonyms), ("ids", ids)):
            if values is not None and (isinstance(values, str) or not hasattr(values, "__len__")):
                raise InputError(f"{column} must be a list, not one {type(values).__name__}")
            if values is not None and len(values) != len(names):
                raise InputError(f"{len(names)} names but {len(values)} {column}")
        for position, others in enumerate(() if synonyms is None else synonyms):
            # the letters of a string are strings, too
            is_list = isinstance(others, (list, tuple))
            if not (is_list and all(isinstance(word, str) for word in others)):
                raise InputError(f"synonyms of name {position}: {others!r:.60} is no list of text")
        for number in () if ids is None else ids:
            if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
                raise InputError(f"id {number!r:.60} is not a whole number")
        if isinstance(templates, str) or not isinstance(templates, (Sequence, type(None))):
            raise InputError(f"templates must be a list, not one {type(templates).__name__}")
        first_with_key: dict[str, int] = {}
        skipped: list[SetAside] = []
        notes: list[str] = []
        for position, name in enumerate(names):
            if not isinstance(name, str):
                raise InputError(f"name {position} is {type(name).__name__}, not text")
            place = f"name {position}" if places is None else places[position]
            words = [name] if synonyms is None else [name, *synonyms[position]]
            if not all(word.isascii() or valid_text(word) == word for word in words):
                notes.append(f"{place}: {HALVES}")
            key = name_key(name, cleaning)
            if not key or not clean_name(name, cleaning):
                skipped.append(SetAside(place, "empty"))
            elif key in first_with_key:
                first = names[first_with_key[key]]
                skipped.append(SetAside(place, f"{name!r} repeats {first!r}"))
            else:
                first_with_key[key] = position
        positions = list(first_with_key.values())
        return cls(
            names=tuple(" ".join(_CONTROLS.sub("", names[i]).split()) for i in positions),
            synonyms=() if synonyms is None else tuple(tuple(synonyms[i]) for i in positions),
            templates=None if templates is None else tuple(templates),
            ids=() if ids is None else tuple(int(ids[i]) for i in positions),
            cleaning=cleaning,
            set_aside=tuple(skipped),
            notes=tuple(notes),
        )

    @classmethod
    def union(cls, vocabularies: Sequence[Vocabulary]) -> Vocabulary:
        """The names of several vocabularies, each once, in order.

        Templates and cleaning are the first one's; ids are counted anew where there are several.
        """
        first = vocabularies[0]
        if len(vocabularies) == 1:
            return first
        names = [name for v in vocabularies for name in v.names]
        synonyms = [words for v in vocabularies for words in v.synonyms]
        joined = cls.from_names(
            names, synonyms=synonyms, templates=first.templates, cleaning=first.cleaning
        )
        # that data sets share names is no fault
        return replace(joined, set_aside=(), notes=())

    def save(self, path: str | Path) -> None:
        """Write a JSON file that `load_vocabulary` reads: COCO's `categories`, and how they prompt.

        Raises:
            OSError: it cannot be written.
        """
        categories = [
            {"id": number, "name": name, "synonyms": words}
            for number, name, words in zip(self.ids, self.names, self.synonyms, strict=True)
        ]
        content = {
            "categories": categories, "templates": self.templates, "cleaning": self.cleaning,
        }  # fmt: skip
        write_json(Path(path), content, indent=2)

    def prompts(self, templates: Sequence[str]) -> list[list[str]]:
        """Per name every text whose embeddings are averaged: each template of each word.

        The words are the name and its synonyms, cleaned.
        """
        return [
            [
                template.replace("{}", clean_name(word, self.cleaning))
                for word in (name, *others)
                for template in templates
            ]
            for name, others in zip(self.names, self.synonyms, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class EncodedVocabulary:
    """A vocabulary with its matrix.

    Attributes:
        vocabulary: the names.
        matrix: `(C, E)` float32, rows of length 1.
        model: fingerprint of the text encoder that encoded it.
        unreadable: names that the text model has no pieces for: their rows mean little.
        regions: fingerprint of the region encoder, where rows are of exemplars, else None.
        classifier: what names regions in place of cosines with the matrix, where one was taught
            (`teaching`, whose `TaughtVocabulary` is saved by itself).
    """

    vocabulary: Vocabulary
    matrix: Floats
    model: str
    unreadable: tuple[str, ...] = ()
    regions: str | None = None
    classifier: RegionClassifier | None = None

    def save(self, path: str | Path, *, private: bool = False) -> None:
        """Write one safetensors file: the matrix, and in its metadata the names and a hash of all.

        If `private`, only its owner may read it.
        """
        vocabulary = self.vocabulary
        metadata = {
            "names": vocabulary.names,
            "synonyms": vocabulary.synonyms,
            "templates": vocabulary.templates,
            "ids": vocabulary.ids,
            "cleaning": vocabulary.cleaning,
            "unreadable": self.unreadable,
            "model": self.model,
            "regions": self.regions,
        }
        matrix = np.ascontiguousarray(self.matrix)
        text = json.dumps(metadata | {"sha256": _content_hash(metadata, matrix)})
        content = save({"matrix": matrix}, metadata={"anyregion_vocabulary": text})
        # written here, not by the library, whose errors are no `OSError`s
        with atomic_path(Path(path), private=private) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: str | Path, *, hash_required: bool = False) -> EncodedVocabulary:
        """Read what `save` wrote; the first version wrote no hash, which `hash_required` refuses.

        Raises:
            InputError: no such file, not a vocabulary, or one that contradicts itself.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {})["anyregion_vocabulary"])
                matrix = file.get_tensor("matrix")
            stored = metadata.pop("sha256", None)
            if stored is None and hash_required:
                raise InputError(f"{path}: without a hash of its content")
            if stored is not None and stored != _content_hash(metadata, matrix):
                raise InputError(f"{path}: damaged or changed: its content has another hash")
            templates = metadata["templates"]
            vocabulary = Vocabulary(
                names=tuple(metadata["names"]),
                synonyms=tuple(tuple(words) for words in metadata["synonyms"]),
                templates=None if templates is None else tuple(templates),
                ids=tuple(metadata["ids"]),
                cleaning=metadata["cleaning"],
            )
            count = len(vocabulary.names)
            if matrix.ndim != 2 or len(matrix) != count or matrix.dtype != np.float32:
                raise InputError(f"{path}: matrix {matrix.shape} for {count} names")
            # a damaged row would win or lose against every region without a word
            if not np.isfinite(matrix).all():
                raise InputError(f"{path}: the matrix holds numbers that are not finite")
            regions = metadata.get("regions")
            if regions is not None and not isinstance(regions, str):
                raise InputError(f"{path}: not an encoded vocabulary (regions {regions!r})")
            unreadable = tuple(metadata["unreadable"])
            return cls(vocabulary, matrix, str(metadata["model"]), unreadable, regions)
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file") from None
        except InputError as error:
            text = str(error)
            raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None
        # whatever a foreign file's values raise where they are used
        except (SafetensorError, LookupError, TypeError, AttributeError, ValueError,
                RecursionError, OSError) as error:  # fmt: skip
            raise InputError(f"{path}: not an encoded vocabulary ({error})") from None


def _content_hash(metadata: dict[str, Any], matrix: NDArray[Any]) -> str:
    """SHA-256 of the names, how they prompt, the model, and the matrix `(C, E)`."""
    kind = [metadata, matrix.dtype.str, matrix.shape]
    digest = hashlib.sha256(json.dumps(kind, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(matrix).data)
    return digest.hexdigest()


def clean_name(name: str, cleaning: Cleaning = "plain") -> str:
    """The words of a name as they enter a prompt (`cell_phone` -> `cell phone` when `plain`)."""
    if cleaning == "plain":
        name = " ".join(name.replace("_", " ").split())
    return _ENDING.sub("", name)


def name_key(name: str, cleaning: Cleaning = "plain") -> str:
    """The form in which names are compared: the prompt, whatever the case and the Unicode form.

    Names that look alike have one key: composed or not, full-width, with zero-width characters or
    other spaces in them. As published, names that come to the same prompt stay apart.
    """
    if not (name.isascii() and name.isprintable()):
        name = unicodedata.normalize("NFKC", _UNSEEN.sub("", valid_text(name)))
    word = " ".join(name.split()) if cleaning == "published" else clean_name(name)
    return unicodedata.normalize("NFKC", word.strip().casefold())


def encode_vocabulary(
    vocabulary: Vocabulary,
    encoder: TextEncoder,
    *,
    cache: Path | Literal["default"] | None = "default",
    progress: Progress | None = None,
) -> EncodedVocabulary:
    """Encode every name once: mean of the un-normalised embeddings of its prompts, then length 1.

    Texts go to the encoder some 8,000 at a time, so memory stays bounded. The result is kept on
    disk under a hash of the names, the templates and the model, where only the user may read it;
    what lies there is believed if the hash of its content is right and it is of these names and
    this model, else encoded anew and written over. `cache=None` neither reads nor writes. A cache
    that cannot be written is no error.

    Raises:
        InputError: a name whose embedding is not finite or zero.
    """
    templates = vocabulary.templates or encoder.templates
    # per name its words, cleaned: what a prompt of nothing else has
    words = vocabulary.prompts(["{}"])
    folder = cache_folder() / "vocabularies" if cache == "default" else cache
    cached = None
    if folder is not None:
        # the names as they are, too: `unreadable` repeats their spelling
        content = (encoder.fingerprint, tuple(templates), words, vocabulary.names)
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        cached = folder / f"{digest[:32]}.safetensors"
        if cached.is_file():
            # cut short by a crash of the disk, of the first version, or not of ours
            with suppress(InputError):
                entry = EncodedVocabulary.load(cached, hash_required=True)
                stored = entry.vocabulary
                if content == (
                    entry.model, stored.templates, stored.prompts(["{}"]), stored.names,
                ):  # fmt: skip
                    return replace(entry, vocabulary=vocabulary)
    unreadable = encoder.unreadable([name for name, *_ in words])
    encoded = EncodedVocabulary(
        vocabulary,
        _encode_names(vocabulary, words, templates, encoder, progress),
        encoder.fingerprint,
        tuple(n for n, bad in zip(vocabulary.names, unreadable, strict=True) if bad),
    )
    if cached is not None:
        # a read-only or full cache costs time, not correctness
        with suppress(OSError):
            # the user's own folder keeps its permissions
            if cache == "default":
                private_folder(cached.parent)
            entry = replace(encoded, vocabulary=replace(vocabulary, templates=tuple(templates)))
            entry.save(cached, private=True)
    return encoded


def _encode_names(
    vocabulary: Vocabulary,
    words: Sequence[Sequence[str]],
    templates: Sequence[str],
    encoder: TextEncoder,
    progress: Progress | None,
) -> Floats:
    """The matrix `(C, E)`: per name the mean of its prompts' embeddings, brought to length 1."""
    rows: list[Floats] = []
    start = 0
    while start < len(words):
        # as many names as fit, but at least one
        stop, texts = start, 0
        while stop < len(words):
            texts += len(words[stop]) * len(templates)
            if stop > start and texts > _TEXTS_AT_ONCE:
                break
            stop += 1
        prompts = [
            [template.replace("{}", word) for word in group for template in templates]
            for group in words[start:stop]
        ]
        # all prompts of these names at once, (T, E); a mean over each name's own
        embedded = encoder.encode_text([text for group in prompts for text in group])
        if len(embedded) == len(prompts):  # one each: its own mean
            rows.extend(embedded)
        else:
            ends = np.cumsum([0] + [len(group) for group in prompts])
            rows.extend(embedded[a:b].mean(axis=0) for a, b in itertools.pairwise(ends))
        start = stop
        if progress is not None:
            progress(start, len(words))
    matrix = np.stack(rows).astype(np.float32)  # (C, E)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        name = vocabulary.names[int(bad[0])]
        raise InputError(f"the text model gives no direction for {name!r}")
    unit: Floats = (matrix / lengths).astype(np.float32)
    # not in `TextEncoder`: most models' names do not depend on each other
    adapt = getattr(encoder, "adapt_vocabulary", None)
    return unit if adapt is None else adapt(unit)
