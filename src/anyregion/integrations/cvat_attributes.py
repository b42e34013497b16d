"""Values of attributes under another label of a CVAT task, and scores as such values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyregion.integrations.cvat_server import CvatAttribute, CvatLabel


def carry_attributes(
    shape: Mapping[str, Any],
    old: CvatLabel | None,
    new: CvatLabel,
    *,
    score: float,
    score_attribute: str,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The values of a shape's attributes under a new label.

    Attributes belong to their label: a value stays where the new one has an attribute of the same
    name that can hold it.

    Args:
        shape: with `attributes`, as CVAT states it.
        old, new: its label, where that is known, and the one that it gets.
        score, score_attribute: what the attribute of this name gets, if the new label has it.

    Returns:
        The values, and the names of those that the new label cannot hold.
    """
    specs = {a.id: a for a in old.attributes.values()} if old else {}
    values: dict[int, str] = {}
    lost: list[str] = []
    for value in shape.get("attributes") or ():
        spec = specs.get(value["spec_id"])
        if old is not None and old.id == new.id:
            values[value["spec_id"]] = value["value"]
        elif spec is not None:
            place = new.attributes.get(spec.name)
            if place is not None and _holds(place, spec, value["value"]):
                values[place.id] = value["value"]
            elif spec.name != score_attribute:
                lost.append(spec.name)
    place = new.attributes.get(score_attribute)
    text = None if place is None else score_text(place, score)
    if place is not None and text is not None:
        values[place.id] = text
    return [{"spec_id": i, "value": v} for i, v in values.items()], lost


def score_text(attribute: CvatAttribute, score: float) -> str | None:
    """A score as the value of an attribute: a text, or a number on the attribute's own scale.

    A number's least value stands for 0 and its greatest for 1, so 0 to 100 holds per cent. None
    for other kinds of attributes.
    """
    if attribute.kind == "text":
        return f"{score:.3f}"
    if attribute.kind != "number" or len(attribute.values) != 3:
        return None
    try:
        low, high, step = (float(v) for v in attribute.values)
    except ValueError:
        return None
    if not (high > low and step > 0):
        return None
    steps = round(score * (high - low) / step)
    return f"{min(low + steps * step, high):g}"


def _holds(place: CvatAttribute, spec: CvatAttribute, value: str) -> bool:
    """Whether an attribute can hold what another one of the same name held."""
    if place.kind in ("select", "radio"):
        return value in place.values
    return place.kind == "text" or (place.kind == spec.kind and place.values == spec.values)
