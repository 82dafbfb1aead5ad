"""Rows for tests of the registry, with the artifacts that they name."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from sqlmodel import Session

from recstill.registry import Registry
from recstill.registry.runs import add_run, record_feature_set
from recstill.registry.versions import NewVersion, add_version
from recstill.settings import Settings


def settings_in(folder: Path, url: str = "") -> Settings:
    return Settings(folder, url or f"sqlite:///{folder / 'registry.db'}", str(folder / "artifacts"), folder)


def put_artifact(registry: Registry, content: str) -> str:
    """Store a folder of one small file and return its digest."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights.bin").write_text(content)
        (Path(folder) / "manifest.json").write_text(json.dumps({"content": content}))
        return registry.artifacts.put(Path(folder))


def add(registry: Registry, session: Session, run_id: str, auc: float = 0.7, model: str = "ads") -> int:
    """Register a version of a new run."""
    add_run(session, run_id, "r", "ads", {})
    session.flush()
    features = record_feature_set(session, {"service": "s", "fingerprint": "f", "views": []})
    digest = put_artifact(registry, run_id)
    new = NewVersion(model, "ads", run_id, digest, 10, 5, features, {"auc": auc}, [("snapshot", "x", {})])
    return add_version(registry, session, new).number
