"""How the end of a run is recorded, whatever ends it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from recstill.api.errors import DataError, RegistryError
from recstill.cli import cli
from recstill.recipes.loading import load_recipe
from recstill.recipes.platform import Platform
from recstill.recipes.progress import Progress
from recstill.recipes.run import Run, begin_run, prepare_run
from recstill.recipes.working import working
from recstill.registry.runs import get_run
from recstill.settings import Settings

_ENDINGS = [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP"), (signal.SIGINT, "Ctrl-C")]
WAY_ON = "go on with it"


@pytest.fixture
def run(home_copy: Settings, recipe_file: Path) -> Run:
    """A run that is about to begin."""
    platform = Platform.open(home_copy)
    return prepare_run(platform, *load_recipe(platform, str(recipe_file), ()), Progress())


def _work(run: Run, end: Callable[[], None]) -> None:
    # A shell that starts tests in the background has them ignore Ctrl-C; this process is told of it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = replace(run, platform=Platform.open(run.platform.settings))  # a process needs a connection of its own
    with working(run, WAY_ON):
        begin_run(run, run.name)
        end()


def in_a_process(run: Run, end: Callable[[], None]) -> int | None:
    """Work on the run in a process of its own until `end`; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=(run, end))
    process.start()
    process.join(60)
    return process.exitcode


def _signal(number: int) -> Callable[[], None]:
    def end() -> None:
        os.kill(os.getpid(), number)
        time.sleep(30)

    return end


def _listed(run: Run) -> str:
    rows = json.loads(CliRunner().invoke(cli, ["runs", "list", "-o", "json"]).stdout)
    return str(next(row["status"] for row in rows if row["id"] == run.id))


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP"), (signal.SIGINT, "Ctrl-C")]
)
def test_a_run_that_is_told_to_end_is_recorded_as_stopped(run: Run, number: int, name: str) -> None:
    code = in_a_process(run, _signal(number))
    assert code == (1 if number == signal.SIGINT else 128 + number)
    with run.platform.registry.read() as session:
        row = get_run(session, run.id)
    assert (row.status, row.error) == ("stopped", f"stopped by {name}; {WAY_ON}")
    assert row.finished_at is not None
    assert _listed(run) == "stopped"


def test_a_run_whose_process_was_killed_is_not_shown_as_running(run: Run) -> None:
    assert in_a_process(run, _signal(signal.SIGKILL)) == -signal.SIGKILL
    assert _listed(run) == "stopped (its process ended)"
    shown = CliRunner().invoke(cli, ["runs", "report", run.id])
    assert f"stopped (its process ended) and has no report. Go on: `recstill run --resume {run.id}`" in shown.output


def test_a_run_that_goes_on_is_running_and_nobody_else_may_work_on_it(run: Run) -> None:
    in_a_process(run, _signal(signal.SIGTERM))
    with working(run, WAY_ON):
        assert _listed(run) == "running"
        with pytest.raises(RegistryError, match="is being worked on by another process"), working(run, WAY_ON):
            pass
        assert _listed(run) == "running"


def test_a_run_that_fails_keeps_its_reason_and_one_that_ends_well_its_status(run: Run) -> None:
    with pytest.raises(DataError), working(run, WAY_ON):
        begin_run(run, run.name)
        raise DataError("a column is gone")
    with run.platform.registry.read() as session:
        assert (get_run(session, run.id).status, get_run(session, run.id).error) == ("failed", "DataError: a column is gone")
    before = signal.getsignal(signal.SIGTERM)
    with working(run, WAY_ON):
        pass
    assert signal.getsignal(signal.SIGTERM) is before
