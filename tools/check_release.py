"""Builds a release into a folder and checks it: what a person does before a tag, as one command.

    pip install --group release        # pip 25.1 or newer
    python tools/check_release.py --out dist [--extras] [--tests]

In a clean checkout it checks that the version is one everywhere; builds the sdist and the wheel
twice and compares their bytes; runs `twine check`; holds the README to links that a package index's
page can follow; compares the sdist with the tracked files; and
installs the wheel into a fresh environment, where `anyregion doctor` must find no problem, the
licences must be those of the page, and the SBOM (CycloneDX) is written from. `--extras` also lets
pip resolve every extra, with `--tests` the tests of the core's rooms run from the unpacked sdist in
an environment without extras. Nothing is published, and no tag is set. The exit code is 1 where a
check fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHEEL_BYTES = 50_000_000
# what of the tests needs no extra; what it shares with others skips
CORE_TESTS = (
    "core",
    "cli",
    "io",
    "teaching",
    "drawing",
    "runs",
    "baselines",
    "bad_input",
    "compact",
)
# hatchling writes it, from pyproject.toml
NOT_TRACKED = {"PKG-INFO"}
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_RELEASE = re.compile(r"^## (\S+) - (\d{4}-\d{2}-\d{2})$", re.MULTILINE)


# of Markdown, what is neither an address nor a place in the page itself
RELATIVE_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)\s]+)")


class ReleaseError(Exception):
    """A check that failed: the text says which, and what was seen."""


@dataclass
class Checks:
    """Runs checks one after the other, and remembers which failed."""

    failed: list[str] = field(default_factory=list)

    def run(self, title: str, check: Callable[[], str]) -> None:
        """Run one; print its result, or why it failed."""
        try:
            print(f"ok      {title}: {check()}", flush=True)
        except ReleaseError as error:
            print(f"FAILED  {title}: {error}", flush=True)
            self.failed.append(title)


def check_versions(root: Path) -> str:
    """One version: the package's, CITATION.cff's with its date, and the newest of CHANGELOG.md.

    Raises:
        ReleaseError: they differ, or one is not stated.
    """
    version = _one(_VERSION, root / "src" / "anyregion" / "__init__.py")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = _RELEASE.search(changelog)
    if newest is None:
        raise ReleaseError("CHANGELOG.md has no section `## VERSION - DATE`")
    if newest[1] != version:
        raise ReleaseError(f"the package is {version}, CHANGELOG.md's newest section {newest[1]}")
    heading = changelog.find("\n## Unreleased\n")
    if heading < 0 or heading > newest.start():
        raise ReleaseError("CHANGELOG.md needs `## Unreleased` above its newest section")
    citation = root / "CITATION.cff"
    stated = _one(re.compile(r'^version: "?([^"\n]+)"?$', re.MULTILINE), citation)
    date = _one(re.compile(r'^date-released: "?([^"\n]+)"?$', re.MULTILINE), citation)
    if (stated, date) != (version, newest[2]):
        raise ReleaseError(f"CITATION.cff says {stated} of {date}, CHANGELOG.md {newest[0][3:]}")
    return f"{version} of {date}"


def check_clean() -> str:
    """Nothing that is not committed: what is built is what a tag would name."""
    changed = _output("git", "status", "--porcelain").splitlines()
    if changed:
        raise ReleaseError(f"{len(changed)} files are not committed: {', '.join(changed[:5])}")
    return _output("git", "rev-parse", "--short", "HEAD").strip()


def build(out: Path) -> tuple[Path, Path]:
    """The sdist and the wheel, dated as the last commit is."""
    seconds = _output("git", "log", "-1", "--format=%ct").strip()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": seconds}
    _run(sys.executable, "-m", "build", "--outdir", out, ROOT, environment=environment)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def check_reproducible(files: tuple[Path, Path]) -> str:
    """A second build has the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        for first, second in zip(files, build(Path(folder)), strict=True):
            if _sha256(first) != _sha256(second):
                raise ReleaseError(f"{first.name} has other bytes when it is built again")
    return ", ".join(f"{path.name} {_sha256(path)[:16]}" for path in files)


def check_size(wheel: Path) -> str:
    """The wheel is small enough for an index."""
    size = wheel.stat().st_size
    if size >= WHEEL_BYTES:
        raise ReleaseError(f"{size / 1e6:.1f} MB, over {WHEEL_BYTES / 1e6:.0f}")
    return f"{size / 1e6:.1f} MB"


def check_readme(wheel: Path) -> str:
    """The README as an index shows it: its links lead somewhere from any page."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode("utf-8")
    if relative := RELATIVE_LINK.findall(text):
        raise ReleaseError(
            f"{len(relative)} relative links, which break on an index's page ({relative[0]}, ...): "
            "say in pyproject.toml where the repository is (CONTRIBUTING.md, A release)"
        )
    return "no relative link"


def check_sdist(sdist: Path) -> str:
    """The sdist has every tracked file, and no other."""
    with tarfile.open(sdist) as archive:
        members = {m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()}
    tracked = set(_output("git", "ls-files").splitlines())
    difference = (tracked ^ members) - NOT_TRACKED
    if difference:
        raise ReleaseError(
            f"only in one of sdist and checkout: {', '.join(sorted(difference)[:9])}"
        )
    return f"{len(members)} files"


def check_core(python: Path, wheel: Path, out: Path) -> str:
    """The wheel alone: it works, has no torch, and only the licences of the page; its SBOM."""
    _run(python, "-m", "pip", "install", "-q", wheel)
    doctor = json.loads(_output(python, "-m", "anyregion", "doctor", "--json", at=out))
    if doctor["problems"] or not doctor["works"]:
        raise ReleaseError(f"anyregion doctor: {doctor['problems']}")
    if "torch" in _output(python, "-m", "pip", "list").split():
        raise ReleaseError("the core brings torch")
    _run(python, ROOT / "tools" / "licences.py", "--check")
    sbom = out / f"anyregion-{doctor['version']}.cdx.json"
    # pip is in the environment for the installation alone
    _run(python, "-m", "pip", "uninstall", "-q", "-y", "setuptools", "pip")
    _run(
        sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible",
        "--pyproject", ROOT / "pyproject.toml", "-o", sbom, python.parents[1],
    )  # fmt: skip
    components = json.loads(sbom.read_text(encoding="utf-8"))["components"]
    return f"{doctor['model']}; {sbom.name} with {len(components)} packages"


def check_extra(python: Path, wheel: Path, extra: str) -> str:
    """Pip finds packages for an extra, as a user of the wheel writes it."""
    report = _output(
        python, "-m", "pip", "install", "-q", "--dry-run", "--report", "-", f"{wheel}[{extra}]"
    )
    return f"{len(json.loads(report)['install'])} packages"


def check_tests(python: Path, sdist: Path, folder: Path) -> str:
    """The unpacked sdist passes the tests of the core's rooms, where no extra is installed."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    packages = ("pytest", "pytest-xdist", "hypothesis", "jsonschema")
    constraints = root / "constraints.txt"
    _run(python, "-m", "pip", "install", "-q", "-c", constraints, *packages, root)
    rooms = [root / "tests" / "unit" / room for room in CORE_TESTS]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"ANYREGION_CACHE": str(folder / "cache"), "ANYREGION_SHARED": str(folder / "-")}
    lines = _output(
        python, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *rooms,
        at=root, environment=environment,
    ).splitlines()  # fmt: skip
    return next(line for line in reversed(lines) if " passed" in line)


def main() -> int:
    """Build and check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist")
    parser.add_argument("--extras", action="store_true", help="let pip resolve every extra too")
    parser.add_argument("--tests", action="store_true", help="run the core's tests from the sdist")
    args = parser.parse_args()
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SystemExit(f"check_release: {out} is not empty")
    checks = Checks()
    checks.run("one version", lambda: check_versions(ROOT))
    checks.run("nothing uncommitted", check_clean)
    sdist, wheel = build(out)
    checks.run("two builds are equal", lambda: check_reproducible((sdist, wheel)))
    checks.run("size of the wheel", lambda: check_size(wheel))
    checks.run("the sdist is complete", lambda: check_sdist(sdist))
    checks.run("links of the README", lambda: check_readme(wheel))
    checks.run("twine check", lambda: _twine(sdist, wheel))
    with tempfile.TemporaryDirectory() as folder:
        python = _environment(Path(folder) / "core")
        checks.run("the core", lambda: check_core(python, wheel, out))
        if args.extras:
            python = _environment(Path(folder) / "extras")
            for extra in sorted(_project()["optional-dependencies"]):
                checks.run(f"[{extra}]", lambda extra=extra: check_extra(python, wheel, extra))
        if args.tests:
            python, unpacked = _environment(Path(folder) / "tests"), Path(folder) / "sdist"
            unpacked.mkdir()
            checks.run("tests of the core", lambda: check_tests(python, sdist, unpacked))
    return 1 if checks.failed else 0


def _twine(*files: Path) -> str:
    _run(sys.executable, "-m", "twine", "check", "--strict", *files)
    return ", ".join(path.name for path in files)


def _environment(folder: Path) -> Path:
    """The Python of a fresh environment."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _project() -> dict[str, dict[str, list[str]]]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project: dict[str, dict[str, list[str]]] = content["project"]
    return project


def _one(pattern: re.Pattern[str], path: Path) -> str:
    listed: list[str] = pattern.findall(path.read_text(encoding="utf-8"))
    if len(listed) != 1:
        raise ReleaseError(f"{path.name} has {len(listed)} lines like {pattern.pattern}")
    return listed[0]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(*words: str | Path, environment: dict[str, str] | None = None) -> None:
    _output(*words, environment=environment)


def _output(*words: str | Path, at: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """What a command prints.

    Raises:
        ReleaseError: it failed; with the last of what it printed.
    """
    # a checkout on PYTHONPATH would stand before what was installed
    clean = {k: v for k, v in (environment or os.environ).items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=at,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise ReleaseError(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{last}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
