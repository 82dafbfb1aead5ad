"""A command that fails says so in one line, and keeps what a developer needs."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from recstill.cli import _Main
from recstill.cli.failures import without_secrets
from recstill.cli.narrow import _plainer
from recstill.recipes.config import Recipe


def old_recipe() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({})
    return caught.value


def failing(error: Exception) -> click.Group:
    @click.command()
    def fail() -> None:
        raise error

    group = _Main("recstill")
    group.add_command(fail)
    return group


def test_a_fault_is_one_line_and_its_traceback_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSTILL_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(failing(KeyError("no\nsuch postgresql://me:hunter2@host/db?password=hunter2")), ["fail"])
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert result.output.startswith("Error: Unexpected KeyError in test_failures.py, line ")
    (kept,) = (tmp_path / "home" / "errors").iterdir()
    assert str(kept) in result.output
    assert "Traceback (most recent call last)" in kept.read_text()
    assert "hunter2" not in result.output + kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_home_that_cannot_be_written_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("RECSTILL_HOME", str(tmp_path / "home"))
    output = CliRunner().invoke(failing(ValueError("x")), ["fail"]).output
    assert "could not be written" in output
    assert "RECSTILL_DEBUG=1" in output


def test_who_wants_the_traceback_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSTILL_DEBUG", "1")
    assert isinstance(CliRunner().invoke(failing(ValueError("x")), ["fail"]).exception, ValueError)


@pytest.mark.parametrize(("error", "words"), [
    (PermissionError(13, "Permission denied", "/x/y"), "Error: /x/y: Permission denied."),
    (IsADirectoryError(21, "Is a directory", "/x"), "Error: /x: Is a directory."),
    (OSError(28, "No space left on device", "/x"), "Error: The disk is full (/x)"),
    (UnicodeDecodeError("utf-8", b"\xfc", 0, 1, "no"), "Error: A file that should be utf-8 text is none: byte 0xfc"),
    (json.JSONDecodeError("Expecting value", "", 0), "Error: A file that should be JSON is none: Expecting value"),
    (old_recipe(), "Error: A Recipe that is stored, or was given, is none of this version: task: this key is needed"),
    (MemoryError(), "Error: Not enough memory."),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "Error: Not enough memory."),
])  # fmt: skip
def test_what_a_user_can_bring_about_is_a_sentence(error: Exception, words: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.output.startswith(words)
    assert result.exit_code == 1


def test_secrets_are_taken_out() -> None:
    assert without_secrets("a://u:p@h/d?password=x&b=1 token=y") == "a://u:***@h/d?password=***&b=1 token=***"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("words", [("models", "-h"), ("data", "list")])
def test_a_terminal_of_few_letters_gets_plainer_ones(encoding: str, words: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "RECSTILL_HOME": str(tmp_path), "LC_ALL": "C"}
    found = subprocess.run([sys.executable, "-m", "recstill", *words], env=environment, capture_output=True, check=True)
    assert found.stdout.decode("utf-8" if encoding == "ascii" else encoding)  # click writes UTF-8 where it is told ASCII
    assert b"Error" not in found.stderr


def test_the_plainer_letters_are_those_that_were_meant() -> None:
    codecs.register_error("recstill", _plainer)
    assert "a…b ± ☃".encode("ascii", "recstill") == b"a...b +- \\u2603"
    assert "a… ±".encode("latin-1", "recstill").decode("latin-1") == "a... ±"
