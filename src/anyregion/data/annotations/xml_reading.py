"""XML of annotation tools, read without a document type: entities are refused, not expanded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from anyregion.data.image_files import read_file
from anyregion.errors import InputError

# Pascal VOC has four levels, with the parts of persons five; CVAT seven
_MAX_DEPTH = 50


def parse_xml(
    path: Path | str,
    *,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], object],
    content: bytes | None = None,
) -> None:
    """Call handlers for the tags and texts of a file, as expat does.

    Args:
        path: the file; with `content`, what messages call that.
        start, end, text: see expat.
        content: the XML, where it is no file.

    Raises:
        InputError: malformed, a document type, or more than 50 levels; names file and line.
    """
    depth = 0

    def refuse(*_: object) -> None:
        # "a billion laughs": entities of entities make gigabytes of a few lines
        raise InputError(f"{path}: XML with a document type or entities is refused")

    def open_tag(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        if depth == _MAX_DEPTH:
            raise InputError(f"{path}: XML nested deeper than {_MAX_DEPTH} levels")
        start(tag, attributes)
        depth += 1

    def close_tag(tag: str) -> None:
        nonlocal depth
        depth -= 1
        end(tag)

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = open_tag
    parser.EndElementHandler = close_tag
    parser.CharacterDataHandler = text
    try:
        parser.Parse(read_file(Path(path)) if content is None else content, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise InputError(f"{path}: malformed XML at line {error.lineno}: {reason}") from None
    except InputError:
        raise
    except (ValueError, LookupError) as error:  # an encoding that Python does not know
        raise InputError(f"{path}: malformed XML ({error})") from None


def read_xml(path: Path | str, content: bytes | None = None) -> ElementTree.Element:
    """A whole file (or `content`) as a tree, to change it; `InputError` as for `parse_xml`."""
    builder = ElementTree.TreeBuilder()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        builder.end(tag)

    parse_xml(path, start=start, end=end, text=builder.data, content=content)
    return builder.close()
