"""From scores to decisions: bands, review, reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.batch import JOINT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.data.bundle import Manifest
    from recstill.data.columns import Values
    from recstill.serving.scorer import Scored

_RISES, _FALLS = "raises the score", "lowers the score"
_WHOLE = 10**15


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

    def of(self, terms: Any, count: int, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the `count` features whose terms (P,) move the log-odds most, with a sentence for each.

        values: what the item's features were, by name; those of the query and of crossed views are not said.
        """
        effects = np.bincount(self.place, terms - self.means, len(self.names))
        order = np.argsort(-np.abs(effects), kind="stable")[:count]
        return [
            {
                "feature": self.names[place],
                "effect": float(effects[place]),
                "direction": "up" if effects[place] > 0 else "down",
                "text": f"{self._subject(place, values)} {_RISES if effects[place] > 0 else _FALLS}.",
            }
            for place in order.tolist()
        ]

    def _subject(self, place: int, values: Mapping[str, Any]) -> str:
        """Name a feature, or a pair, with its value where that is known: `Age (24)`."""
        title = self.titles[place]
        parts = self.names[place].split(JOINT)
        if not all(part in values for part in parts):
            return title[:1].upper() + title[1:]
        shown = ", ".join(_shown(values[part]) for part in parts)
        return f"{title[:1].upper()}{title[1:]} ({shown})"


def _shown(value: Any) -> str:
    if value is None or value in ("", []) or value != value:
        return "missing"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _WHOLE else f"{value:g}"
    return str(value)


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
            values = {name: column[place] for name, column in scored.given.items()}
            answer["reasons"] = reasons.of(scored.terms[place], decision.reasons, values)
        answers.append(answer)
    return answers
