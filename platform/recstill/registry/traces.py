"""What of a home says that it had a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recstill.api.errors import RegistryError
from recstill.registry.address import database_file, shown
from recstill.registry.artifacts import Artifacts

if TYPE_CHECKING:
    from sqlalchemy import URL

    from recstill.settings import Settings


def check_file(settings: Settings, url: URL) -> None:
    """Raise RegistryError for a database file that is missing or empty where there was one; it is not touched."""
    file = database_file(url)
    if file is None or _has_bytes(file):
        return
    log = Path(f"{file}-wal")
    if _has_bytes(log):
        raise RegistryError(
            f"{file} is missing or empty, but its log {log.name} is not: changes would be lost. Bring the registry back "
            f"(`recstill restore FILE`, or both files of a copy), or move {log} away."
        )
    found = traces(settings)
    if found and not _has_bytes(file):  # another process may have made it meanwhile
        raise _lost(settings, url, "is empty" if file.exists() else "is missing", found)


def check_no_traces(settings: Settings, url: URL) -> None:
    """Raise RegistryError if a database without tables stands where there was a registry."""
    if found := traces(settings):
        raise _lost(settings, url, "holds no tables", found)


def traces(settings: Settings) -> list[str]:
    """Say what there is that only a registry could have known: artifacts, runs, snapshots, signals, decisions, features."""
    counts = {
        "artifacts": len(Artifacts(settings).stored()),
        "runs": _count(settings.home / "runs", "[!.]*"),
        "snapshots": _count(settings.home / "snapshots", "[!.]*"),
        "sets of signals": _count(settings.home / "signals", "[!.]*/**/signals.json"),
        "decision logs": _count(settings.home / "decisions", "*.jsonl"),
    }
    found = [f"{count} {name}" for name, count in counts.items() if count]
    if _has_bytes(settings.home / "feast" / "registry.db"):
        found.append("a feature registry")
    return found


def _lost(settings: Settings, url: URL, state: str, found: list[str]) -> RegistryError:
    is_own = settings.artifacts_url == str(settings.home / "artifacts")
    places = f"{settings.home} holds" if is_own else f"{settings.home} and RECSTILL_ARTIFACTS_URL hold"
    return RegistryError(
        f"The registry at {shown(url)} {state}, but {places} {', '.join(found)}. "
        "Check RECSTILL_HOME and RECSTILL_REGISTRY_URL; bring the registry back with `recstill restore FILE`; or begin "
        "one that knows nothing of them: `recstill registry init --yes`."
    )


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _count(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern))) if folder.is_dir() else 0
