"""Call a plugin's code so that nothing it does can end the command that called it."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING, TypeVar

from recstill.api.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
LOG = logging.getLogger("recstill.plugins")


def shielded(plugin: str, doing: str, work: Callable[[], T]) -> T:
    """Return what the plugin's code returns, and pass on what it prints to the log.

    doing: what it was called for, as in "register_students".
    Raise PluginError, naming the plugin, for whatever its code raises, `sys.exit` included. Ctrl-C passes.
    """
    printed = io.StringIO()
    try:
        # Data goes to stdout: a line that a plugin prints there would break `-o json`.
        with contextlib.redirect_stdout(printed):
            return work()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(f"Plugin {plugin!r} failed in {doing}: {words_of(error)}") from error
    finally:
        if text := printed.getvalue().strip():
            LOG.warning("plugin %s printed in %s: %s", plugin, doing, text)


def words_of(error: BaseException) -> str:
    """Say what a plugin raised."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    return f"{type(error).__name__}: {error}"
