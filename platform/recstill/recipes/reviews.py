"""Scores near the threshold: from the decision log into the queue, to a person, and back as labels."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import ConfigError, IntegrityError
from recstill.registry.models import ReviewRow
from recstill.registry.reviews import add_reviews, decide, list_reviews
from recstill.serving.decisions import mask, read_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

    from recstill.api.task import TaskSpec
    from recstill.recipes.platform import Platform


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the decisions of a log file. Raise IntegrityError if a line was changed, taken out or put in; a last line without
    an end is one that a killed server did not finish, and is left out."""
    before = ""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        content: dict[str, Any] = json.loads(line)
        if content["before"] != before:
            raise IntegrityError(f"{path}, line {number}, does not follow the line before it: the log was changed.")
        before = hashlib.sha256(line).hexdigest()
        yield content


def queue_reviews(platform: Platform) -> dict[str, int]:
    """Read all decision logs, check their chains and queue what was marked for review; return how many were seen and new."""
    logs = sorted(platform.settings.folder("decisions").glob("*.jsonl"))
    decisions = [content for path in logs for content in read_log(path)]
    wanted = [
        ReviewRow(
            request=one["request"], task=one["task"], model_version=one["model_version"], subject=one["subject"],
            score=one["score"], band=one["band"], scored_at=datetime.fromisoformat(one["time"]),
        )
        for one in decisions if one["decision"] == "review"
    ]  # fmt: skip
    with platform.registry.transaction() as session:
        fresh = add_reviews(session, wanted)
    return {"decisions": len(decisions), "for review": len(wanted), "new in the queue": fresh}


def decide_review(platform: Platform, number: int, decision: str, note: str) -> ReviewRow:
    """Record what a person decided. Raise ConfigError for a decision that the task does not know."""
    with platform.registry.transaction() as session:
        row = next((row for row in list_reviews(session) if row.id == number), None)
        if row is not None:
            spec = platform.task(row.task).spec.decision
            allowed = (spec.pass_, spec.act) if spec is not None else ()
            if decision not in allowed:
                raise ConfigError(f"Review {number}", [f"task {row.task} decides {' or '.join(allowed)}, not {decision!r}"])
        return decide(platform.registry, session, number, decision, note)


def reviewed_labels(platform: Platform, task: TaskSpec, ids: Any) -> dict[Any, float]:
    """Return {item id: label} of the items that people decided about, the newest decision of each; 1 is acting on it.

    ids: the items to look for; the log holds masked ids only.
    """
    if task.decision is None:
        return {}
    with platform.registry.transaction() as session:
        rows = list_reviews(session, task.name, is_open=False)
    if not rows:
        return {}
    key = read_key(platform.settings.folder("decisions"))
    decided = {row.subject: float(row.decision == task.decision.act) for row in rows}
    found = {item: decided.get(mask(item, key)) for item in np.unique(ids).tolist()}
    return {item: label for item, label in found.items() if label is not None}


def reviews_digest(platform: Platform, task: TaskSpec) -> str:
    """Return what changes whenever a person decides about an item of the task; empty while nobody has."""
    if task.decision is None:
        return ""
    with platform.registry.transaction() as session:
        rows = [(row.id, row.decision) for row in list_reviews(session, task.name, is_open=False)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] if rows else ""


def with_reviews(platform: Platform, task: TaskSpec, rows: pa.Table) -> tuple[pa.Table, int]:
    """Give rows whose primary label is not known the label that a person decided; return the rows and how many they are.

    What became known of an item is never overruled by what somebody expected.
    """
    import pyarrow as pa

    labels = reviewed_labels(platform, task, rows[task.endpoint.item_key].to_numpy(zero_copy_only=False))
    if not labels:
        return rows, 0
    name = task.primary.name
    values = rows[name].to_numpy(zero_copy_only=False).astype(np.float32)
    items = rows[task.endpoint.item_key].to_pylist()
    given = np.array([labels.get(item, np.nan) for item in items], np.float32)
    filled = np.isnan(values) & ~np.isnan(given)
    values = np.where(filled, given, values)
    return rows.set_column(rows.column_names.index(name), name, pa.array(values)), int(filled.sum())
