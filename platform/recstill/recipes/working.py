"""Work on a run: by one process at a time, and recorded however it ends."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from filelock import FileLock, Timeout

from recstill.api.errors import RecstillError, RegistryError
from recstill.registry.models import RunRow
from recstill.registry.runs import finish_run, restart_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from recstill.recipes.run import Run
    from recstill.settings import Settings

_LOCK = "run.lock"
_PATIENCE = 1.0  # `recstill runs list` holds a lock for a moment to see whether somebody else does
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class StoppedError(SystemExit):
    """The process was told to end. Raised where it worked, so that what is open is closed and the run's end is recorded."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)  # what a shell reports of a process that a signal ended
        self.name = signal.Signals(number).name


@contextmanager
def working(run: Run, way_on: str) -> Iterator[None]:
    """Hold the run's lock for the length of the block, and record how it ends unless it ends well.

    way_on: how to go on with a run that was stopped, for the registry and for people. Raise RegistryError if another process
    works on the run.
    """
    with _alone(run), _ended_by_an_exception():
        try:
            with run.platform.registry.transaction() as session:
                restart_run(session, run.id)
            yield
        except BaseException as error:
            _record_end(run, error, way_on)
            raise


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    lock = FileLock(run.folder / _LOCK, timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise RegistryError(f"Run {run.id} is being worked on by another process.") from error
    try:
        yield
    finally:
        lock.release()


def status_of(settings: Settings, row: RunRow) -> str:
    """Return the status of a run; one that a killed process left is not running, whatever the registry says."""
    folder = settings.home / "runs" / row.id
    if row.status != "running" or not folder.is_dir() or is_worked_on(folder):
        return row.status  # a run of another host has no folder here
    return "stopped (its process ended)"


def is_worked_on(folder: Path) -> bool:
    """Say whether a process of this host works on the run of a folder."""
    return _is_locked(folder / _LOCK)


def _record_end(run: Run, error: BaseException, way_on: str) -> None:
    for number in _ENDING:
        if signal.getsignal(number) is _stop and threading.current_thread() is threading.main_thread():
            signal.signal(number, signal.SIG_IGN)  # a second one must not cut this short
    is_stopped = isinstance(error, (StoppedError, KeyboardInterrupt))
    status = "stopped" if is_stopped else "failed"
    reason = getattr(error, "name", "Ctrl-C") if is_stopped else f"{type(error).__name__}: {error}"
    run.progress.say(f"run {run.id} {status}{f' by {reason}' if is_stopped else ''}; {way_on}")
    try:
        with run.platform.registry.transaction() as session:
            if session.get(RunRow, run.id) is not None:
                finish_run(session, run.id, status, error=f"stopped by {reason}; {way_on}" if is_stopped else reason)
    except RecstillError as other:  # a full disk ends a run, and may refuse this too
        run.progress.say(f"that could not be recorded: {other}")


@contextmanager
def _ended_by_an_exception() -> Iterator[None]:
    """Let SIGTERM (Kubernetes, Slurm) and SIGHUP (a closed terminal) raise StoppedError, where nobody handles them."""
    is_main = threading.current_thread() is threading.main_thread()  # others may not set handlers
    handled = [number for number in _ENDING if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise StoppedError(number)


def _is_locked(path: Path) -> bool:
    """Say whether a process holds the lock. Opens it for reading only, so that it works in a home that cannot be written."""
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)  # and with it the lock
