"""What long work says while it runs: bars on a terminal, a line per stage and epoch elsewhere. All on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Stages, steps and remarks of one piece of work."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()
        self._bar: Any = None

    def say(self, text: str) -> None:
        """Print a line."""
        self._close()
        self._said = time.monotonic()
        print(f"[{time.monotonic() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage."""
        self.say(name)
        try:
            yield
        finally:
            self._close()

    def steps(self, done: int, total: int, loss: float | None = None, unit: str = "step") -> None:
        """Move the bar of a loop; elsewhere than on a terminal, say so every half minute."""
        if not sys.stderr.isatty():
            if time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
                self.say(f"{unit} {done:,} of {total:,}" + ("" if loss is None else f", loss {loss:.4f}"))
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, leave=False, unit=unit, file=sys.stderr)
        self._bar.n = done
        if loss is None:
            self._bar.refresh()
        elif done % 10 == 0 or done == total:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=True)

    def download(self, done: int, total: int) -> None:
        """Move the bar of a download."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, leave=False, unit="B", unit_scale=True, file=sys.stderr)
        self._bar.n = done
        self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
