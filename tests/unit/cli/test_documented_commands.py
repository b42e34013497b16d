"""Every command line of the documentation is one that the parsers accept."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

import pytest

from anyregion.cli.main import COMMANDS, GROUPS, _parser, main, module_of
from tests.helpers.docs import PAGES, code_of, words_of

# commands whose further words only a task's dataclass knows
SETTINGS = ("train", "pretrain", "transfer semseg", "transfer detection")


def documented() -> list[tuple[str, list[str], bool]]:
    """Page, words, and whether they are a whole command line."""
    commands = []
    for page in PAGES:
        if page.parent.name == "commands":  # written from the parsers
            continue
        lines, inline = code_of(page.read_text(encoding="utf-8"))
        for line in lines:
            if words := words_of(line):
                commands.append((page.name, words, "..." not in words))
        for code in inline:
            if words := words_of(code):
                commands.append((page.name, words, False))
    return commands


def name_of(words: list[str]) -> str:
    """The command that words call; a group's name where they call none of its commands."""
    two = " ".join(words[:2])
    return two if two in COMMANDS else words[0]


CASES = documented()


def test_commands_are_found() -> None:
    assert len(CASES) > 60
    called = {name_of(words) for _, words, whole in CASES if whole}
    assert called >= COMMANDS.keys() - {"models", "doctor"}
    assert words_of('.venv/bin/anyregion recognize a.jpg --vocabulary "b, c" > out  # text') == [
        "recognize", "a.jpg", "--vocabulary", "b, c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("page", "words", "whole"),
    CASES,
    ids=[f"{page}: {' '.join(words)}" for page, words, _ in CASES],
)
def test_a_documented_command(
    page: str,
    words: list[str],
    whole: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = name_of(words)
    assert name in COMMANDS or (name in GROUPS and not whole), f"{page}: no command {name}"
    if not whole:  # a part of a command line: what it names exists
        if name in COMMANDS:
            parser = argparse.ArgumentParser()
            importlib.import_module(module_of(name)).add_arguments(parser)
            flags = {word.split("=")[0] for word in words if word.startswith("--")}
            if name in SETTINGS:  # those of the task's dataclass have its name in front
                flags = {flag for flag in flags if "." not in flag}
            assert flags <= parser._option_string_actions.keys()
        return
    try:
        _parser(words).parse_args(words)
    except SystemExit:
        pytest.fail(f"{page}: {capsys.readouterr().err.strip().splitlines()[-1]}")
    if name in SETTINGS:
        check_settings(words, monkeypatch)


class _ReachedError(Exception):
    """The command would start now."""


def check_settings(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a training's command up to its start: its settings are such as the task knows."""
    for package in ("torch", "torchvision", "jsonargparse", "lightning_fabric", "skimage", "timm"):
        pytest.importorskip(package)
    from anyregion.recipes import run
    from anyregion.recipes.loading import list_recipes, read_training

    def start(*arguments: Any, settings: list[str], config: str | None = None, **_: Any) -> None:
        config = config or str(arguments[0])
        if config in list_recipes():  # a file of the reader's own is not here
            read_training(config, settings)
        raise _ReachedError

    monkeypatch.setattr(run, "train", start)
    monkeypatch.setattr(run, "pretrain", start)
    for function in ("transfer_semseg", "transfer_detection", "transfer_training"):
        monkeypatch.setattr(run, function, start)
    prints = any(word in words for word in ("--help", "--list-recipes", "--print-recipe"))
    if prints:
        assert main(words) == 0
    else:
        with pytest.raises(_ReachedError):
            main(words)
