"""From scores to decisions: bands, review, reasons, and a log that is only ever added to."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from recstill.api.batch import JOINT
from recstill.api.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.data.bundle import Manifest
    from recstill.data.encoders import Values
    from recstill.serving.scorer import Scored

_RISES, _FALLS = "raises the score", "lowers the score"


class Reasons:
    """What moves a score away from that of the mean training row, the largest first.

    method: `additive`, the exact terms of an additive model beside their means over the training rows; else
    `integrated-gradients`, whose effects add up to the difference of the log-odds but for the rule's error.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.method = "additive" if manifest.part_names else "integrated-gradients"
        parts = [name.removesuffix("#") for name in manifest.part_names or manifest.attributed]
        self.names = list(dict.fromkeys(parts))
        self.place = np.array([self.names.index(name) for name in parts], np.int64)
        self.means = np.array(manifest.part_means or np.zeros(len(parts)), np.float32)
        titles = {feature.name: feature.title or feature.name for feature in manifest.task.features}
        self.titles = [" together with ".join(titles.get(part, part) for part in name.split(JOINT)) for name in self.names]

    def of(self, terms: Any, count: int) -> list[dict[str, Any]]:
        """Return the `count` features whose terms (P,) move the log-odds most, with a sentence for each."""
        effects = np.bincount(self.place, terms - self.means, len(self.names))
        order = np.argsort(-np.abs(effects), kind="stable")[:count]
        return [
            {
                "feature": self.names[place],
                "effect": float(effects[place]),
                "direction": "up" if effects[place] > 0 else "down",
                "text": f"{self.titles[place].capitalize()} {_RISES if effects[place] > 0 else _FALLS}.",
            }
            for place in order.tolist()
        ]


class DecisionLog:
    """One JSON line per decision in a file per worker and day, each with the digest of the line before it.

    Ids are masked by a keyed hash, whose key lies beside the log (`mask.key`, readable by its owner only) or in
    RECSTILL_MASK_KEY; features are not logged. A line is on the disk before the answer leaves.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = _mask_key(folder)
        self._day, self._last = "", ""
        self._file: int | None = None

    def write(self, task: str, version: str, items: Values, answers: list[dict[str, Any]]) -> str:
        """Log the decisions of a request and return its id."""
        request, moment = secrets.token_hex(8), datetime.now(UTC)
        lines = []
        for item, answer in zip(items.tolist(), answers, strict=True):
            content = {
                "time": moment.isoformat(), "request": request, "task": task, "model_version": version,
                "subject": mask(item, self._key), "score": answer["score"], "band": answer["band"],
                "decision": answer["decision"], "reasons": [reason["feature"] for reason in answer.get("reasons", [])],
                "before": self._last,
            }  # fmt: skip
            line = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
            self._last = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
        os.write(self._open(moment), b"".join(lines))
        return request

    def _open(self, moment: datetime) -> int:
        day = f"{moment:%Y%m%d}"
        if self._file is None or day != self._day:
            if self._file is not None:
                os.close(self._file)
            path = self.folder / f"{day}-{os.getpid()}-{secrets.token_hex(3)}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DSYNC, 0o600)
            self._day = day
        return self._file


def mask(subject: Any, key: bytes) -> str:
    """Return what stands for an id in logs: the same for the same id, and of no use without the key."""
    return hmac.new(key, str(subject).encode(), hashlib.sha256).hexdigest()[:24]


def read_key(folder: Path) -> bytes:
    """Return the key of a decision log. Raise BundleError if there is none."""
    if given := os.environ.get("RECSTILL_MASK_KEY"):
        return given.encode()
    if not (folder / "mask.key").is_file():
        raise BundleError(f"{folder} has no mask.key: no decision was logged there yet.")
    return (folder / "mask.key").read_bytes()


def _mask_key(folder: Path) -> bytes:
    if not os.environ.get("RECSTILL_MASK_KEY"):
        try:
            place = os.open(folder / "mask.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return read_key(folder)
        with os.fdopen(place, "wb") as file:
            file.write(secrets.token_hex(32).encode())
    return read_key(folder)


def decided(manifest: Manifest, scored: Scored, items: Values, reasons: Reasons | None) -> list[dict[str, Any]]:
    """Return an answer per item, in the order of the request: score, band, decision, and reasons if they are asked for."""
    decision, task = manifest.task.decision, manifest.task
    assert decision is not None
    answers = []
    others = [label.name for label in task.labels if not label.primary]
    for place, item in enumerate(items.tolist()):
        score = float(scored.scores[task.primary.name][place])
        answer: dict[str, Any] = {
            task.endpoint.item_key: item,
            "score": score,
            "band": decision.band(score),
            "decision": decision.decide(score),
            **{name: float(scored.scores[name][place]) for name in others},
        }
        if place in scored.remarks:
            answer["remarks"] = scored.remarks[place]
        if reasons is not None and scored.terms is not None:
            answer["reasons"] = reasons.of(scored.terms[place], decision.reasons)
        answers.append(answer)
    return answers
