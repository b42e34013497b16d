"""`VocabularyStore`: vocabularies by name, encoded once, and taught by corrections."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anyregion.data.store.locks import try_lock
from anyregion.errors import InputError
from anyregion.files import private_folder
from anyregion.io.vocabulary import BUILT_IN_NAMES, load_vocabulary
from anyregion.recognizer import Recognizer
from anyregion.teaching.teacher import Teacher
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, encode_vocabulary

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# seconds that a process waits for another one that teaches the same vocabulary
LOCK_WAIT = 10.0


@dataclass(frozen=True)
class _Kept:
    """A vocabulary by name, the state of its file, and the teacher that goes on with it, if any."""

    taught: TaughtVocabulary
    state: tuple[int, int] | None
    teacher: Teacher | None = None


class VocabularyStore:
    """Vocabularies of the service.

    Each is one `.vocab` file of `folder`, so that several processes and tabs see what was taught:
    it is read again when it has changed, and written under a lock. Without a folder they are in
    memory. One thread may encode while another teaches.

    Args:
        recognizer: whose vocabularies they are.
        folder: see above; made if it is missing, for its owner alone.
        limit: how many may be kept by name, and how many others stay encoded.
        default: what regions are named by where nothing is said, as `load_vocabulary` takes it;
            None for the names that the model knows.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        folder: Path | None,
        limit: int,
        *,
        default: str | None = None,
    ) -> None:
        self.recognizer, self.folder, self.limit = recognizer, folder, limit
        self.default = default
        self._lock = threading.RLock()
        self._kept: dict[str, _Kept] = {}
        self._encoded: OrderedDict[Any, EncodedVocabulary] = OrderedDict()

    def names(self) -> list[str]:
        """Those that are kept by name, in alphabetical order."""
        if self.folder is None:
            return sorted(self._kept)
        if not self.folder.is_dir():
            return []
        stems = (path.stem for path in self.folder.glob("*.vocab"))
        return sorted(stem for stem in stems if NAME.fullmatch(stem))

    def get(self, name: str) -> TaughtVocabulary | None:
        """A vocabulary that is kept, with all that it was taught; or None."""
        with self._lock:
            kept = self._read(name)
        return None if kept is None else kept.taught

    def encode(self, source: str | Sequence[str] | Vocabulary | None) -> EncodedVocabulary:
        """The vocabulary that a request names.

        Args:
            source: names, perhaps with synonyms; one that is kept, or a built-in list, by its name;
                None for the default.

        Raises:
            InputError: no such vocabulary, or names that are none.
        """
        if isinstance(source, str):
            taught = self.get(source)
            if taught is not None:
                return taught
            if source not in BUILT_IN_NAMES:
                raise InputError(
                    f"no vocabulary {source!r}: there are "
                    f"{', '.join([*self.names(), *BUILT_IN_NAMES])}; or give a list of names"
                )
        key = tuple(source) if isinstance(source, list) else source
        if key in self._encoded:
            self._encoded.move_to_end(key)
            return self._encoded[key]
        vocabulary: Any = self.recognizer.vocabulary
        if isinstance(source, str) or (source is None and self.default is not None):
            vocabulary = load_vocabulary(str(source or self.default))
        elif source is not None:
            vocabulary = source
            if not isinstance(source, Vocabulary):
                vocabulary = Vocabulary.from_names(source)
        if vocabulary is None:
            raise InputError("the model knows no names of its own: give a vocabulary")
        if isinstance(vocabulary, EncodedVocabulary):
            encoded = self.recognizer.encode_vocabulary(vocabulary)  # raises for another model's
        else:
            # not by the recogniser, which keeps what it encoded last and is no two threads'
            encoded = encode_vocabulary(
                vocabulary, self.recognizer.encoder.text, cache=self.recognizer.cache
            )
        self._encoded[key] = encoded
        while len(self._encoded) > self.limit:
            self._encoded.popitem(last=False)
        return encoded

    @contextmanager
    def teaching(self, name: str, *, create: Vocabulary | None = None) -> Iterator[Teacher]:
        """The teacher of a vocabulary; what it was taught in the block is kept when it ends well.

        Args:
            name: of the vocabulary.
            create: its words, where it is not there yet; None: it has to be there.

        Raises:
            InputError: no such vocabulary, a name that cannot be one, too many of them, or another
                process that does not end its own teaching.
        """
        check_name(name)
        with self._lock, self._locked(name):
            kept = self._read(name)
            if kept is not None:
                teacher = kept.teacher or Teacher(self.recognizer, kept.taught)
            elif create is None:
                raise InputError(f"no vocabulary {name!r}: make it first")
            elif len(self.names()) >= self.limit:
                raise InputError(f"there are {self.limit} vocabularies: delete one first")
            else:
                teacher = Teacher(self.recognizer, create)
            try:
                yield teacher
                taught = teacher.vocabulary()
                if self.folder is not None:
                    taught.save(self._path(name), private=True)
            except BaseException:
                # the teacher may have learnt half of it
                if kept is not None:
                    self._kept[name] = replace(kept, teacher=None)
                raise
            self._kept[name] = _Kept(taught, self._state(name), teacher)

    def delete(self, name: str) -> bool:
        """Remove a vocabulary; whether it was there."""
        check_name(name)
        with self._lock, self._locked(name):
            there = name in self.names()
            self._kept.pop(name, None)
            if self.folder is not None:
                self._path(name).unlink(missing_ok=True)
        return there

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.vocab"

    def _state(self, name: str) -> tuple[int, int] | None:
        """What changes when another process writes the file; None without one."""
        if self.folder is None:
            return None
        try:
            state = self._path(name).stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_ino

    def _read(self, name: str) -> _Kept | None:
        if not NAME.fullmatch(name):
            return None
        kept, state = self._kept.get(name), self._state(name)
        if self.folder is None or (kept is not None and state == kept.state):
            return kept
        if state is None:  # deleted by another process, or never there
            self._kept.pop(name, None)
            return None
        taught = TaughtVocabulary.load(self._path(name))
        self.recognizer.encode_vocabulary(taught)  # raises where another model was taught
        self._kept[name] = _Kept(taught, state)
        return self._kept[name]

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        if self.folder is None:
            yield
            return
        if not self.folder.exists():
            private_folder(self.folder)
        end = time.monotonic() + LOCK_WAIT
        while True:
            with try_lock(self._path(name).with_suffix(".lock")) as ours:
                if ours:
                    yield
                    return
            if time.monotonic() > end:
                raise InputError(f"{name} is being taught by another process: try again")
            time.sleep(0.05)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a vocabulary.

    Raises:
        InputError: other characters than letters, digits, `-` and `_`, over 64 of them, or the name
            of a built-in list.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r:.80} cannot be a vocabulary's name: up to 64 letters, digits, - and _"
        )
    if name in BUILT_IN_NAMES:
        raise InputError(f"{name} is a built-in list: give yours another name")
