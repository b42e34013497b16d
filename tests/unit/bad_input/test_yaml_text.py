"""YAML that a reader must not choke on."""

from __future__ import annotations

import pytest

yaml_text = pytest.importorskip("anyregion.yaml_text", reason="needs PyYAML")

from anyregion.errors import InputError  # noqa: E402

NESTED_ALIASES = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NESTED_ALIASES, "line 6.*more than 200,000 values"),
        ("[" * 3000, "line 1, column 51: nested deeper than 50 levels"),
        ("- " * 5000, "nested deeper"),
        ("&a [*a]", "'a' lies within what it stands for"),
        ("a: 1\nb: !!float x", "line 2.*could not convert"),
        ("a: !!int ''", "line 1.*not a value of its kind"),
        ("a: 1\nb: 2026-99-99", "line 2.*month"),
        ("n: " + "9" * 5000, "line 1.*digits"),
        ("a: 1\nb: 2\na: 3", "'a' stands twice"),
        ("a: 1\nb: \x07", "line 2"),
        ("a: [1, 2", "line 1, column 9"),
        ("!!python/name:os.system x", "could not determine a constructor"),
        ("a: *nothing", "undefined alias"),
        ("x" * 4_000_001, "more than 4,000,000 characters"),
    ],
)
def test_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)^m\.yaml.*{message}"):
        yaml_text.parse_yaml(text, "m.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: &x [1, 2]\nb: [*x, *x]", {"a": [1, 2], "b": [[1, 2], [1, 2]]}),
        ("x: &x {a: 1}\ny: {<<: *x, a: 2}", {"x": {"a": 1}, "y": {"a": 2}}),
        ("a: '\ud83d'", {"a": "\ufffd"}),
        ("names:\n  0: cat\n  1: dog", {"names": {0: "cat", 1: "dog"}}),
    ],
)
def test_is_read(text: str, value: object) -> None:
    assert yaml_text.parse_yaml(text, "m.yaml") == value
