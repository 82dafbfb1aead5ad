"""Scores near the threshold: from the decision log into the queue, to a person, and back as labels."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import ConfigError, DataError
from recstill.registry.models import ReviewRow
from recstill.registry.reviews import add_reviews, decide, get_review, list_reviews
from recstill.serving.decision_log import LogReader
from recstill.serving.masking import Hmac, known_keys, mask

if TYPE_CHECKING:
    import pyarrow as pa

    from recstill.api.task import TaskSpec
    from recstill.recipes.platform import Platform


def queue_reviews(platform: Platform) -> tuple[dict[str, int], list[str]]:
    """Read all decision logs and queue what was marked for review; return how many were seen and new, and what is wrong with
    the logs. Only what is verified is queued; a damaged log does not keep the others out."""
    reader = LogReader(platform.settings.folder("decisions"))
    seen, wanted = 0, []
    for one in reader.decisions():
        seen += 1
        if one["decision"] == "review":
            wanted.append(_review_of(one))
    with platform.registry.transaction() as session:
        fresh = add_reviews(session, wanted)
    return {"decisions": seen, "for review": len(wanted), "new in the queue": fresh}, reader.problems


def verify_logs(platform: Platform) -> LogReader:
    """Verify every decision log; the reader says what is wrong."""
    reader = LogReader(platform.settings.folder("decisions"))
    for _ in reader.decisions():
        pass
    return reader


def _review_of(decision: dict[str, Any]) -> ReviewRow:
    return ReviewRow(
        request=decision["request"],
        task=decision["task"],
        model_version=decision["model_version"],
        subject=decision["subject"],
        score=decision["score"],
        band=decision["band"],
        scored_at=datetime.fromisoformat(decision["time"]),
    )


def decide_review(platform: Platform, number: int, decision: str, note: str) -> ReviewRow:
    """Record what a person decided. Raise ConfigError for a decision that the task does not know."""
    with platform.registry.transaction() as session:
        row = get_review(session, number)
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
    with platform.registry.read() as session:
        rows = list_reviews(session, task.name, is_open=False)
    if not rows:
        return {}
    decided = {row.subject: float(row.decision == task.decision.act) for row in rows}
    keys = [Hmac(key) for key in known_keys(platform.settings.folder("decisions")).values()]
    if not keys:
        raise DataError("People decided reviews, but the key of the decision log is gone: restore decisions/mask.key.")
    found: dict[Any, float] = {}
    for item in set(ids):
        for key in keys:  # ids that were masked before the key was changed are still found
            if (label := decided.get(mask(item, key))) is not None:
                found.setdefault(item, label)
    return found


def reviews_digest(platform: Platform, task: TaskSpec) -> str:
    """Return what changes whenever a person decides about an item of the task; empty while nobody has."""
    if task.decision is None:
        return ""
    with platform.registry.read() as session:
        rows = [(row.id, row.decision) for row in list_reviews(session, task.name, is_open=False)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] if rows else ""


def with_reviews(platform: Platform, task: TaskSpec, rows: pa.Table) -> tuple[pa.Table, int]:
    """Give rows whose primary label is not known the label that a person decided; return the rows and how many they are.

    What became known of an item is never overruled by what somebody expected.
    """
    import pyarrow as pa

    from recstill.data.arrow import typed_column

    labels = reviewed_labels(platform, task, typed_column(rows[task.endpoint.item_key]).tolist())
    if not labels:
        return rows, 0
    name = task.primary.name
    values = rows[name].to_numpy(zero_copy_only=False).astype(np.float32)
    items = rows[task.endpoint.item_key].to_pylist()
    given = np.array([labels.get(item, np.nan) for item in items], np.float32)
    filled = np.isnan(values) & ~np.isnan(given)
    values = np.where(filled, given, values)
    return rows.set_column(rows.column_names.index(name), name, pa.array(values)), int(filled.sum())
