"""What a release promises and a checkout shows: one version, and no GPL in the core."""

from __future__ import annotations

import re
import runpy
import shutil
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
VERSIONED = ("CHANGELOG.md", "CITATION.cff", "src/anyregion/__init__.py")


@pytest.fixture(scope="module")
def release() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "check_release.py"))


@pytest.fixture(scope="module")
def licences() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "licences.py"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in VERSIONED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def test_there_is_one_version(release: dict[str, Any]) -> None:
    import anyregion

    assert release["check_versions"](ROOT).startswith(f"{anyregion.__version__} of 20")


@pytest.mark.parametrize(
    ("name", "pattern", "text"),
    [
        ("CHANGELOG.md", r"^## \d\S+ - ", "## 99.0.0 - "),
        ("CHANGELOG.md", r"^## Unreleased$", "## Soon"),
        ("CITATION.cff", r"^version: .*$", "version: 99.0.0"),
        ("CITATION.cff", r"^date-released: .*$", "date-released: 2001-01-01"),
        ("src/anyregion/__init__.py", r'^__version__ = ".*"$', '__version__ = "99.0.0"'),
    ],
)
def test_another_version_is_noticed(
    release: dict[str, Any], copy: Path, name: str, pattern: str, text: str
) -> None:
    path = copy / name
    changed = re.sub(pattern, text, path.read_text(), count=1, flags=re.MULTILINE)
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(release["ReleaseError"]):
        release["check_versions"](copy)


def test_no_gpl_enters_the_core(licences: dict[str, Any]) -> None:
    packages = licences["core_packages"]()
    assert {"numpy", "onnxruntime", "packaging"} <= {p.name for p in packages}
    assert [p for p in packages if licences["is_gpl"](p.licence)] == []
    assert [p.name for p in packages if p.licence == "not declared"] == []


@pytest.mark.parametrize(
    ("licence", "gpl"),
    [
        ("AGPL-3.0", True),
        ("GPL-3.0-or-later", True),
        ("LGPL-2.1-only AND MIT", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("MIT OR GPL-2.0-only", False),
        ("MPL-2.0 AND MIT", False),
        ("Apache-2.0", False),
    ],
)
def test_what_a_gpl_is(licences: dict[str, Any], licence: str, gpl: bool) -> None:
    assert licences["is_gpl"](licence) is gpl


def test_the_page_of_licences_names_what_the_core_needs(licences: dict[str, Any]) -> None:
    page = licences["PAGE"].read_text(encoding="utf-8")
    # what those need in turn moves with their versions
    direct = [p for p in licences["core_packages"]() if "anyregion" in p.needed_by]
    assert len(direct) >= 8
    for package in direct:
        assert re.search(rf"^\| {package.name} \| ", page, re.MULTILINE | re.IGNORECASE), package


def test_links_of_the_readme_have_to_lead_somewhere_from_an_index(
    release: dict[str, Any], tmp_path: Path
) -> None:
    def wheel(readme: str) -> Path:
        path = tmp_path / "anyregion-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("anyregion-1.0.dist-info/METADATA", f"Name: anyregion\n\n{readme}")
        return path

    readme = (ROOT / "README.md").read_text()
    with pytest.raises(release["ReleaseError"], match=r"relative links.*docs/images/launch\.jpg"):
        release["check_readme"](wheel(readme))
    # what CONTRIBUTING says to put into pyproject.toml, as the plugin applies it
    (block,) = re.findall(
        r"```toml\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text().replace("\n   ", "\n"), re.S
    )
    stated = tomllib.loads(block.replace("ADDRESS", "https://example.org/anyregion"))
    for rule in stated["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        replacement = rule["replacement"].replace("$HFPR_VERSION", "1.0")
        readme = re.sub(rule["pattern"], replacement, readme)
    assert release["check_readme"](wheel(readme)) == "no relative link"
    root = "https://example.org/anyregion"
    assert f"]({root}/raw/v1.0/docs/images/page.jpg)" in readme
    assert f"]({root}/blob/v1.0/docs/guides/teaching.md)" in readme
    # every place that it names is there
    for place in re.findall(rf"{root}/(?:raw|blob)/v1\.0/([^)#]+)", readme):
        assert (ROOT / place).exists(), place


def test_the_oldest_versions_are_stated_for_all_that_ci_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, waiting = project["optional-dependencies"], ["dev", "serve"]
    requirements = [Requirement(text) for text in project["dependencies"]]
    while waiting:
        requirements += (more := [Requirement(text) for text in extras[waiting.pop()]])
        waiting += [extra for r in more if r.name == "anyregion" for extra in r.extras]
    wanted = {canonicalize_name(r.name) for r in requirements} - {"anyregion"}
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    stated = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    assert not wanted - stated
