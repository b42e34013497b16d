"""Writes docs/reference/commands: a page for every command, from what its parser declares.

    python tools/command_reference.py [--check]

With `--check` nothing is written, and the exit code is 1 where a page is not what the parsers say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from anyregion.cli.exit_codes import EPILOG
from anyregion.cli.main import COMMANDS, GROUPS, _parser

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/reference/commands"
NOTE = "<!-- python tools/command_reference.py writes this page -->"


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one command, with all that it declares."""
    parser = _parser(name.split())
    for word in name.split():
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = commands.choices[word]
    return parser


def cell(text: str) -> str:
    """Plain text as a cell of a Markdown table."""
    text = " ".join(text.split())
    for character in "\\|<>*_[]`{}":
        text = text.replace(character, f"\\{character}" if character != "<" else "&lt;")
    return text.replace("\\>", "&gt;")


def code(text: str) -> str:
    """Text that is typed, as a cell of a Markdown table."""
    return "`" + text.replace("|", "\\|") + "`"


def value_of(action: argparse.Action) -> str:
    """The words that stand for an option's value: N, DIR, {a,b}; empty for a switch."""
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        metavar = action.metavar or action.dest.upper()
        value = metavar if isinstance(metavar, str) else " ".join(metavar)
    return {"+": f"{value} [{value} ...]", "*": f"[{value} ...]", "?": f"[{value}]"}.get(
        str(action.nargs), value
    )


def rows(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> Iterator[str]:
    """A line of the table for each option or argument."""
    formatter = parser._get_formatter()
    for action in actions:
        if action.help == argparse.SUPPRESS or action.dest == "help":
            continue
        value = value_of(action)
        names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
        help_text = formatter._expand_help(action) if action.help else ""
        yield f"| {', '.join(map(code, names))} | {cell(help_text)} |"


def page(name: str) -> str:
    """The page of one command."""
    parser = parser_of(name)
    positional = [a for a in parser._actions if not a.option_strings]
    words = [value_of(a) for a in positional if a.nargs != argparse.REMAINDER]
    required = [
        f"{action.option_strings[0]} {value_of(action)}".strip()
        for action in parser._actions
        if action.option_strings and action.required
    ]
    call = " ".join(["anyregion", name, *words, *required, "[OPTIONS]"])
    lines = [f"# anyregion {name}", "", NOTE, "", f"{parser.description}", ""]
    lines += ["```text", call, "```", ""]
    for group in parser._action_groups:
        table = list(rows(parser, group._group_actions))
        if not table:
            continue
        title = str(group.title)
        note = ""
        if " (" in title:  # what a title says in brackets is a remark, and no heading
            title, _, note = title.partition(" (")
            note = note.rstrip(")")
        lines += [f"## {title[0].upper()}{title[1:]}", ""]
        if note:
            lines += [f"{note[0].upper()}{note[1:]}.", ""]
        if group.description:
            lines += [" ".join(group.description.split()), ""]
        heading = "argument" if title.startswith("positional") else "option"
        lines += [f"| {heading} | meaning |", "| --- | --- |", *table, ""]
    epilog = (parser.epilog or "").replace(EPILOG, "").strip("\n")
    if epilog:
        lines += ["## More", "", "```text", epilog, "```", ""]
    lines += ["Exit codes: [errors and exit codes](../errors.md).", ""]
    return "\n".join(lines)


def file_of(name: str) -> str:
    """The file of a command's page: `evaluate knn` is anyregion_evaluate_knn.md.

    One command is called `index`, and index.md is the list of all.
    """
    return "anyregion_" + name.replace(" ", "_").replace("-", "_") + ".md"


def index() -> str:
    """The page that lists all commands."""
    lines = [
        "# Commands", "", NOTE, "",
        "`anyregion COMMAND --help` prints the same as these pages.", "",
        "| command | what it does |", "| --- | --- |",
    ]  # fmt: skip
    for name, summary in COMMANDS.items():
        lines.append(f"| [{name}]({file_of(name)}) | {cell(summary)} |")
    groups = ", ".join(f"`{name}` ({summary})" for name, summary in GROUPS.items())
    lines += ["", f"Groups of commands: {groups}.", ""]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Every page and its text."""
    texts = {FOLDER / "index.md": index()}
    return texts | {FOLDER / file_of(name): page(name) for name in COMMANDS}


def main(arguments: argparse.Namespace) -> int:
    """Write the pages, or name those that are not current."""
    texts = pages()
    stale = [p for p, text in texts.items() if not p.is_file() or p.read_text("utf-8") != text]
    stale += [p for p in FOLDER.glob("*.md") if p not in texts]
    if arguments.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not current: python tools/command_reference.py")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale:
        if path in texts:
            path.write_text(texts[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    sys.exit(main(parser.parse_args()))
