"""A proposer by name, and what is said where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from anyregion import factory
from anyregion.errors import InputError
from anyregion.recognizer import Recognizer
from tests.helpers.colours import ColourEncoder


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magic", {}, "no proposer 'magic': there are own, compact, sam"),
        ("sam", {}, "needs a localizer"),
        ("compact", {"localizer": "sam"}, "uses no localizer"),
    ],
)
def test_what_cannot_be_had(name: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        factory.load_proposer(name, **options)


def test_own_is_the_localizer_of_the_recogniser(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from anyregion.localizers import loading
    from anyregion.localizers.automatic import AutomaticMasks
    from tests.helpers.small_localizers import build

    class Localized(ColourEncoder):
        localizer = build("sam")

    recognizer = Recognizer(Localized(), cache=None)
    for name in ("own", "sam"):
        proposer = factory.load_proposer(name, recognizer=recognizer)
        assert isinstance(proposer, AutomaticMasks)
        assert proposer.localizer is Localized.localizer, "not loaded again"
    other = build("sam2")
    monkeypatch.setattr(loading, "load_localizer", lambda *_, **__: other)
    proposer = factory.load_proposer("sam", localizer="sam2", recognizer=recognizer)
    assert isinstance(proposer, AutomaticMasks)
    assert proposer.localizer is other

    class Strange(ColourEncoder):
        localizer = object()

    with pytest.raises(InputError, match="makes no automatic masks"):
        factory.load_proposer("sam", recognizer=Recognizer(Strange(), cache=None))
