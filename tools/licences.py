"""The licences of what the core needs, as a page; refuses a GPL among them.

    python tools/licences.py            # writes docs/reference/licences.md
    python tools/licences.py --check    # exit code 1 where the page is another, or a licence a GPL

The packages are those that this environment has of what `anyregion` needs without any extra, and of
what those need; run it where the core alone is installed, on the oldest Python. A licence is what
the package's own metadata declares.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "licences.md"
# by what the metadata says in words of its own
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    # pycocotools: the licence of two clauses
    "FreeBSD": "BSD-2-Clause",
    "MIT License": "MIT",
}
_GPL = re.compile(r"\b[AL]?GPL|General Public", re.IGNORECASE)
HEAD = """\
# Licences of the core

anyregion is Apache-2.0, and so are its built-in weights ([model cards](model_cards.md),
`NOTICE`). `pip install anyregion` brings these packages besides; none of them is
under a GPL, LGPL or AGPL, which a test holds. What extras bring is not listed. Written by
`python tools/licences.py` from what each package declares; the versions of a release stand in its
SBOM ("A release" in CONTRIBUTING.md).

| package | licence | needed by |
| --- | --- | --- |
"""
FOOT = """
Wheels also carry compiled libraries of others, whose licences lie in the wheels' own folders. The
texts of two speak of a GPL. numpy's wheels for Linux bring GCC's `libgfortran` (GPL-3.0 or later
with the GCC Runtime Library Exception, which leaves what is linked with it its own terms) and
`libquadmath` (LGPL-2.1 or later). Pillow's bring FreeType (the FreeType Licence, or GPL-2.0 by
choice) and `liblzma` (0BSD; parts of the same project that are not in the wheel are under a GPL).
They are files of those packages; anyregion's own wheel holds no compiled library.
"""


@dataclass(frozen=True)
class Package:
    """One package that the core needs.

    Attributes:
        name: as it calls itself.
        licence: as it declares it, in SPDX's terms where those are known.
        needed_by: the packages that need it.
    """

    name: str
    licence: str
    needed_by: tuple[str, ...]


def core_packages() -> list[Package]:
    """What the core needs, with what that needs, by name.

    Raises:
        SystemExit: one is not installed here.
    """
    needed_by: dict[str, set[str]] = {}
    waiting = [("anyregion", frozenset[str]())]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            names = {"", *extras}
            if requirement.marker and not any(
                requirement.marker.evaluate({"extra": extra}) for extra in names
            ):
                continue
            key = canonicalize_name(requirement.name)
            needed_by.setdefault(key, set()).add(name)
            item = (key, frozenset(requirement.extras))
            if item not in seen:
                seen.add(item)
                waiting.append(item)
    try:
        return [
            Package(str(metadata.metadata(key)["Name"]), licence_of(key), tuple(sorted(users)))
            for key, users in sorted(needed_by.items())
        ]
    except metadata.PackageNotFoundError as error:
        raise SystemExit(f"licences: {error.name} is not installed here") from None


def licence_of(name: str) -> str:
    """The licence that a package declares."""
    fields = metadata.metadata(name)
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in fields.get_all("Classifier") or []
        if text.startswith("License :: ")
    ]
    # the field License may be a whole text
    stated = (fields.get("License") or "").strip().partition("\n")[0]
    declared = fields.get("License-Expression") or stated or " AND ".join(classifiers)
    return SPDX.get(declared, declared) or "not declared"


def is_gpl(licence: str) -> bool:
    """Whether a licence is a GPL, LGPL or AGPL, without the choice of another."""
    choices = re.split(r"\s+OR\s+", licence.strip("()"))
    return all(_GPL.search(choice) for choice in choices)


def page_of(packages: list[Package]) -> str:
    """The page."""
    rows = [f"| {p.name} | {p.licence} | {', '.join(p.needed_by)} |\n" for p in packages]
    return HEAD + "".join(rows) + FOOT


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    packages = core_packages()
    refused = [p for p in packages if is_gpl(p.licence) or p.licence == "not declared"]
    for package in refused:
        print(f"licences: {package.name}: {package.licence}", file=sys.stderr)
    if refused:
        return 1
    text = page_of(packages)
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        print(f"licences: {PAGE} is not of these packages: write it again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
