"""Every error that recstill raises on purpose.

RecstillError                     shown to the user as one line, exit code 1
├── UnknownNameError              a plugin, task, model, alias, feature … that nobody offers
├── PluginError                   a plugin that cannot be loaded, breaks its contract or is disabled
├── ConfigError                   a recipe or an option that cannot work; carries every mistake found
├── DivergedError                 training that met a number which is none
├── DataError                     a download or a data set that is not what it should be
│   ├── RowsError                 rows of a task that cannot train; carries every problem found
│   └── IntegrityError            bytes that do not match the digest recorded for them
├── FeatureError                  a feature store that lacks, or must not give, what was asked for
├── RegistryError                 a registry operation that would break one of its rules
│   └── GateError                 a promotion refused; carries the failed gates
├── BundleError                   an exported model that must not be loaded
└── RequestError                  a request that cannot be served; carries an HTTP status
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class RecstillError(Exception):
    """Base of all errors that are shown to the user as a message, without a traceback."""


class UnknownNameError(RecstillError):
    """A name that is not in its catalog. `kind` and `name` are kept for programs."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        close = difflib.get_close_matches(name, self.known, n=1)
        tail = f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(self.known[:12]) or 'none'}."
        super().__init__(f"Unknown {kind} {name!r}.{tail}{' ' + hint if hint else ''}")


class PluginError(RecstillError):
    """A plugin cannot take part. The text names its distribution."""


class ConfigError(RecstillError):
    """A configuration with mistakes; `problems` holds every one of them."""

    def __init__(self, subject: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(_listed(subject, self.problems))


class DivergedError(RecstillError):
    """Training stopped because its loss or its weights are no finite numbers; nothing of it was kept.

    `stage` is what trained, `found` what was seen and at which step, `cause` the likely reason.
    """

    def __init__(self, stage: str, found: str, cause: str) -> None:
        self.stage, self.found, self.cause = stage, found, cause
        super().__init__(f"{stage}: {found}. It stopped there and nothing of it is kept. Likely cause: {cause}.")


class DataError(RecstillError):
    """A data set cannot be fetched, read or built."""


class RowsError(DataError):
    """Rows that cannot train a model; `problems` holds every one, with column, count, an example and the way out."""

    def __init__(self, subject: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(_listed(subject, self.problems))


class IntegrityError(DataError):
    """Stored bytes differ from the digest recorded for them."""


class FeatureError(RecstillError):
    """The feature store lacks a feature, or the feature may not be used here."""


class RegistryError(RecstillError):
    """The registry refused an operation; nothing was changed."""


class GateError(RegistryError):
    """A promotion was refused; `failures` says which gates failed and why."""

    def __init__(self, version: str, failures: Sequence[str]) -> None:
        self.failures = list(failures)
        lines = "\n".join(f"  - {failure}" for failure in self.failures)
        super().__init__(f"{version} was not promoted, {len(self.failures)} gate(s) failed:\n{lines}")


class BundleError(RecstillError):
    """A bundle is incomplete, altered or made for something else; it was not loaded."""


class RequestError(RecstillError):
    """A request that cannot be served. `status` is the HTTP status to answer with."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def _listed(subject: str, problems: Sequence[str]) -> str:
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return f"{subject}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems)
