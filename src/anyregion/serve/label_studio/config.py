"""`LabelConfig`: the image of a project's labelling interface, and the controls that mark it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from xml.etree import ElementTree

from anyregion.data.annotations.xml_reading import read_xml
from anyregion.errors import InputError
from anyregion.teaching.corrections import NONE_OF_THESE
from anyregion.vocabulary import Vocabulary, name_key

SHAPES = ("rectangle", "polygon", "brush", "keypoint", "ellipse")
"""Shapes of controls; the first that an interface has is what found regions are drawn as."""
_MOST_CONFIG = 2**20


@dataclass(frozen=True)
class Control:
    """A tag that marks regions of the image, or that labels those of other tags.

    Attributes:
        name: what results call it (`from_name`).
        tag: `RectangleLabels`, `Rectangle`, `Labels`, ...
        labels: by `name_key` of each name, the text that a result states: the alias or the value.
        names: the values, which words are made of; with other words for the same thing.
    """

    name: str
    tag: str
    labels: Mapping[str, str]
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def type(self) -> str:
        """The `type` of its results, which is also the key of their labels."""
        return self.tag.lower()

    @property
    def shape(self) -> str:
        """`rectangle`, ...; empty for `Labels`, which has none of its own."""
        return self.type.removesuffix("labels")

    @property
    def is_labelled(self) -> bool:
        """Whether its own results hold the label."""
        return self.tag.endswith("Labels")

    def name_of(self, label: str) -> str | None:
        """The name of a label as results state it; None for one that it does not have."""
        values = {name_key(name): name for name, _ in self.names}
        return next((values[key] for key, text in self.labels.items() if text == label), None)


@dataclass(frozen=True)
class LabelConfig:
    """What the back end needs of a labelling interface.

    Attributes:
        image: name of the `Image` tag (`to_name`).
        key: under which a task's data has the image.
        controls: tags that draw regions of it.
        labellers: `Labels` tags, for regions of tags without labels.
        vocabulary: of `model_vocabulary` on a control: the name of a kept or built-in vocabulary.
        threshold: of `model_score_threshold`: what scores less gets no label.
    """

    image: str
    key: str
    controls: tuple[Control, ...]
    labellers: tuple[Control, ...]
    vocabulary: str | None = None
    threshold: float = 0.0

    @classmethod
    @lru_cache(maxsize=64)
    def parse(cls, text: str) -> LabelConfig:
        """Read a labelling interface.

        Raises:
            InputError: no image or several, no control for it, or XML that is none.
        """
        if len(text) > _MOST_CONFIG:
            raise InputError(f"a labelling interface of {len(text)} characters")
        root = read_xml("the labelling interface", text.encode(errors="replace"))
        images = [tag for tag in root.iter("Image") if tag.get("name")]
        if not images:
            raise InputError("the labelling interface has no Image: only images can be looked at")
        if len(images) > 1 or images[0].get("valueList"):
            raise InputError(
                "the labelling interface shows several images a task; regions are named where a "
                "task has one (one Image tag, with value)"
            )
        image, value = images[0].attrib["name"], images[0].get("value", "")
        if not value.startswith("$") or len(value) < 2:
            raise InputError(f"Image: value must be $ and a key of the data, not {value!r:.60}")
        tags = [t for t in root.iter() if image in t.get("toName", "").split(",") and t.get("name")]
        controls = tuple(map(_control, tags))
        return cls(
            image,
            value[1:],
            tuple(c for c in controls if c.shape in SHAPES),
            tuple(c for c in controls if c.tag == "Labels"),
            next((t.get("model_vocabulary") for t in tags if t.get("model_vocabulary")), None),
            _threshold(next((t.get("model_score_threshold", "") for t in tags
                             if t.get("model_score_threshold")), "0")),
        )  # fmt: skip

    def control(self, name: object) -> Control | None:
        """The drawing tag that results call so."""
        return next((c for c in self.controls if c.name == name), None)

    def labeller(self, control: Control) -> Control | None:
        """The tag whose labels regions of a drawing tag have: itself, or one of `Labels`."""
        if control.is_labelled:
            return control
        return self.labellers[0] if self.labellers else None

    def drawing(self, *shapes: str) -> Control | None:
        """The tag that regions of the model's are drawn with: the first of these shapes."""
        named = [c for c in self.controls if (owner := self.labeller(c)) and owner.labels]
        # those with labels of their own before those that share others
        named.sort(key=lambda c: not c.is_labelled)
        return next((c for shape in shapes for c in named if c.shape == shape), None)

    def names(self) -> Vocabulary:
        """The labels of all controls as words, each once; without "none of these".

        Raises:
            InputError: no labels.
        """
        words: dict[str, tuple[str, list[str]]] = {}
        for control in (*self.controls, *self.labellers):
            for name, others in control.names:
                key = name_key(name)
                if key and key != name_key(NONE_OF_THESE):
                    words.setdefault(key, (name, []))[1].extend(others)
        if not words:
            raise InputError("the labelling interface has no labels for regions of the image")
        return Vocabulary.from_names(
            [name for name, _ in words.values()],
            synonyms=[list(dict.fromkeys(others)) for _, others in words.values()],
        )

    def label_keys(self) -> dict[str, str]:
        """By `name_key` of every name and other word the key of the label that it stands for."""
        keys: dict[str, str] = {}
        for control in (*self.controls, *self.labellers):
            for name, others in control.names:
                keys[name_key(name)] = name_key(name)
                for other in others:
                    keys.setdefault(name_key(other), name_key(name))
        return keys


def _control(tag: ElementTree.Element) -> Control:
    labels: dict[str, str] = {}
    names: list[tuple[str, tuple[str, ...]]] = []
    for label in tag.iter("Label"):
        value = label.get("value", "").strip()
        if not name_key(value) or name_key(value) in labels:
            continue
        labels[name_key(value)] = label.get("alias") or label.attrib["value"]
        # the attribute of Label Studio's own back ends: what a model calls this label
        others = [word.strip() for word in label.get("predicted_values", "").split(",")]
        names.append((value, tuple(word for word in others if word)))
    return Control(tag.get("name", ""), tag.tag, labels, tuple(names))


def _threshold(text: str) -> float:
    try:
        threshold = float(text)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise InputError(f"model_score_threshold must lie in 0 to 1, not {text!r:.40}")
    return threshold
