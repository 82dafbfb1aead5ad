"""Call a plugin's code so that nothing it does can end the command that called it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import TYPE_CHECKING, TypeVar

from recstill.api.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
LOG = logging.getLogger("recstill.plugins")


def shielded(plugin: str, doing: str, work: Callable[[], T]) -> T:
    """Return what the plugin's code returns, and pass on what it prints to the log.

    doing: what it was called for, as in "register_students".
    Raise PluginError, naming the plugin, for whatever its code raises, `sys.exit` included. Ctrl-C passes.
    """
    printed = _Printed()
    try:
        # Data goes to stdout: a line that a plugin prints there would break `-o json`.
        with _kept_as_it_was(), contextlib.redirect_stdout(printed):
            return work()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(f"Plugin {plugin!r} failed in {doing}: {words_of(error)}") from error
    finally:
        if text := printed.getvalue().strip():
            LOG.warning("plugin %s printed in %s: %s", plugin, doing, text)


class _Printed(io.StringIO):
    """What a plugin printed. A plugin that closes its stdout loses no line, and does not end the command."""

    def close(self) -> None:
        """Stay open: what was printed is still to be read."""


@contextlib.contextmanager
def _kept_as_it_was() -> Iterator[None]:
    """Undo what a plugin's code changes for everybody else: the working folder, which relative paths of the command line
    begin at, where errors and warnings are written to, and whether any are."""
    folder, stderr, level = _working_folder(), sys.stderr, logging.root.manager.disable
    try:
        yield
    finally:
        sys.stderr = stderr
        logging.disable(level)
        if folder is not None and _working_folder() != folder:
            os.chdir(folder)


def _working_folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  as os.chdir takes it
    except FileNotFoundError:  # it was deleted under the command
        return None


def words_of(error: BaseException) -> str:
    """Say what a plugin raised, also where its own words cannot be had."""
    try:
        if isinstance(error, SystemExit):
            return f"it called sys.exit({error.code!r})"
        return f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException as second:  # the text is the plugin's code too
        return f"{type(error).__name__}, whose text raises {type(second).__name__}"
