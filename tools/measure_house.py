"""Measures how easily the source can be read, and holds it against the limits of the house.

    python tools/measure_house.py [--root DIR] [--static] [--details]

Measured is the checkout that this file stands in, or DIR. How each line is counted:

dialect identifiers: NAME tokens of which a part (split at underscores) is a word of `DIALECT`, for
    1,000 lines (45 when the house was first measured). `set_aside` is left out: it is a key of
    the JSON that commands print, and the attribute that becomes it. The three lines below are for
    information: with `set_aside`; the same words anywhere in the text, docstrings and comments too
    (58 at first); and `FURTHER` words, only where they are a variable's whole name.
comment lines: lines that hold nothing but a `#` comment, of all lines.
one importer: modules that exactly one other module of the package imports, anywhere in it (inside
    functions and under TYPE_CHECKING too). Names in strings, as lazy re-exports use, do not count.
own imports: other modules of the package that a file imports, the mean over files.
parameters: of functions and methods outside `cli/`, without `self` and `cls`.
import circles: groups of modules that import one another when they are loaded; for information,
    with the imports inside functions as well.

What has to be run is counted by `measure_calls.py`; `--static` leaves it out. The exit code is 1
where a limit is not kept.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "anyregion"
# fmt: off
DIALECT = {
    "found", "asked", "wanted", "theirs", "ours", "said", "told", "given", "aside", "made",
}
FURTHER = {
    "meant", "seen", "kept", "lies", "whole", "near", "here", "there", "thing", "things", "chosen",
    "known", "left", "fitting", "looked", "about", "shown", "taken", "drawn", "placed", "held",
    "mine",
}
# fmt: on

Row = tuple[str, str, str, str]
Imports = dict[str, set[str]]


def row(name: str, value: float, limit: float | None = None, *, least: bool = False) -> Row:
    """A line of the table; without a limit it is for information."""
    text = f"{value:.1f}" if isinstance(value, float) else f"{value:,}"
    if limit is None:
        return name, text, "", ""
    fine = value >= limit if least else value <= limit
    return name, text, f"{'>=' if least else '<='} {limit:,}", "ok" if fine else "no"


def read_modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file."""
    modules = {}
    for path in sorted((root / "src" / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / "src").with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def dialect_rows(texts: dict[str, str], lines: int, details: bool) -> Iterator[Row]:
    identifiers: dict[str, Counter[str]] = defaultdict(Counter)
    public = words = further = 0
    for name, text in texts.items():
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                if token.string.lower() == "set_aside":
                    public += 1
                    continue
                identifiers[name].update(DIALECT.intersection(token.string.lower().split("_")))
        words += sum(word in DIALECT for word in re.findall("[a-z]+", text))
        for node in ast.walk(ast.parse(text)):
            further += isinstance(node, ast.Name) and node.id in FURTHER
            further += isinstance(node, ast.arg) and node.arg in FURTHER
    total = sum(count.total() for count in identifiers.values())
    yield row("dialect identifiers, of 1,000 lines", 1000 * total / lines, 3)
    yield row("  with `set_aside`", 1000 * (total + public) / lines)
    yield row("  the same words anywhere in the text", 1000 * words / lines)
    yield row("  further such words as variables", 1000 * further / lines)
    if details:
        worst = sorted(identifiers.items(), key=lambda item: -item[1].total())[:25]
        for name, count in worst:
            if count:
                print(f"  {name}: {', '.join(f'{w} {n}' for w, n in count.most_common())}")


def read_imports(tree: ast.AST, modules: dict[str, Path], *, loading: bool = False) -> set[str]:
    """The package's modules that a module imports; with `loading`, only when it is loaded."""
    imported: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if loading and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if loading and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                imported.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    imported.add(inner if inner in modules else child.module)
            visit(child)

    visit(tree)
    return imported & modules.keys()


def circles(imports: Imports) -> list[list[str]]:
    """Groups of modules that reach one another."""
    reach = {}
    for start in imports:
        stack, reached = list(imports[start]), set[str]()
        while stack:
            name = stack.pop()
            if name not in reached:
                reached.add(name)
                stack.extend(imports[name])
        reach[start] = reached
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in imports
        if name in reach[name]
    }
    return sorted(map(list, groups))


def wide_functions(name: str, tree: ast.AST, most: int = 10) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(a.arg not in ("self", "cls") for a in every)
            if count > most:
                yield f"{name}.{node.name}: {count}"


def static_rows(root: Path, details: bool) -> Iterator[Row]:
    modules = read_modules(root)
    texts = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    lengths = {name: len(text.splitlines()) for name, text in texts.items()}
    lines = sum(lengths.values())
    yield from dialect_rows(texts, lines, details)
    comments = sum(x.lstrip().startswith("#") for text in texts.values() for x in text.splitlines())
    yield row("comment lines, percent", 100 * comments / lines, 2, least=True)

    imports = {name: read_imports(tree, modules) - {name} for name, tree in trees.items()}
    importers: Imports = defaultdict(set)
    for name, imported in imports.items():
        for other in imported:
            importers[other].add(name)
    single = [name for name in modules if len(importers[name]) == 1]
    yield row("modules with one importer", len(single), 40)
    yield row("  lines of these", sum(lengths[name] for name in single))
    yield row("own imports of a file", sum(map(len, imports.values())) / len(modules))
    at_load = {name: read_imports(tree, modules, loading=True) for name, tree in trees.items()}
    loops, all_loops = circles(at_load), circles(imports)
    yield row("import circles", len(loops), 0)
    yield row("  with imports inside functions", len(all_loops))
    wide = [
        function
        for name, tree in trees.items()
        if not name.startswith(f"{PACKAGE}.cli")
        for function in wide_functions(name, tree)
    ]
    yield row("functions of more than 10 parameters", len(wide), 0)
    yield row("lines of src", lines, 33_493)
    yield row("files", len(modules))
    yield row("lines of a file, median", int(statistics.median(lengths.values())))
    longest = max(lengths, key=lambda name: lengths[name])
    yield row(f"  longest: {longest.removeprefix(PACKAGE + '.')}", lengths[longest])
    if details:
        print("\nmodules with one importer:")
        for name in sorted(single, key=lambda name: lengths[name]):
            print(f"  {name} ({lengths[name]}): {', '.join(importers[name])}")
        print("import circles:", *loops, "\nwith imports inside functions:", *all_loops, sep="\n  ")
        print("functions of more than 10 parameters:", *wide, sep="\n  ")
        print("longest:", *sorted(lengths, key=lambda n: -lengths[n])[:12], sep="\n  ")


def print_table(rows: list[Row]) -> None:
    width = max(len(name) for name, *_ in rows)
    print(f"\n{'measure':{width}}  {'value':>8}  {'limit':>9}  ok")
    for name, value, limit, verdict in rows:
        print(f"{name:{width}}  {value:>8}  {limit:>9}  {verdict}".rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], metavar="DIR")
    parser.add_argument("--static", action="store_true", help="only what is read off the text")
    parser.add_argument("--details", action="store_true", help="print what was counted")
    args = parser.parse_args()
    rows = list(static_rows(args.root, args.details))
    if not args.static:
        from measure_calls import measure_calls

        for name, value, limit in measure_calls(args.root, details=args.details):
            unknown = (name, "-", "", f"not measured: {value}")
            rows.append(row(name, value, limit) if isinstance(value, int) else unknown)
    print_table(rows)
    return int(any(verdict == "no" for *_, verdict in rows))


if __name__ == "__main__":
    sys.exit(main())
