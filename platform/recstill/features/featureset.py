"""What a feature service holds, in our own words; needs no feast to read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from recstill.api.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api.task import FeatureSpec, TaskSpec


@dataclass(frozen=True)
class View:
    """One feature view of a service: `features` and `key_types` map names to Feast's types, `availability` is `request` or
    `training`."""

    name: str
    join_keys: tuple[str, ...]
    features: Mapping[str, str]
    availability: str
    owner: str
    freshness: str
    key_types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureSet:
    """The views of a feature service. Its fingerprint changes with any name, type, key or availability."""

    service: str
    views: tuple[View, ...]

    @property
    def fingerprint(self) -> str:
        schema = [
            (v.name, v.join_keys, sorted(v.features.items()), v.availability, sorted(v.key_types.items())) for v in self.views
        ]
        return hashlib.sha256(json.dumps(sorted(schema)).encode()).hexdigest()[:16]

    @property
    def features(self) -> dict[str, View]:
        """Each feature with its view."""
        return {feature: view for view in self.views for feature in view.features}

    @property
    def privileged(self) -> list[str]:
        """Features that are not available at request time."""
        return [feature for feature, view in self.features.items() if view.availability == "training"]

    def select(self, task: TaskSpec) -> tuple[FeatureSpec, ...]:
        """Return the task's features that this service gives, those of the request included, in the task's order.

        Raise FeatureError for a feature of the service that the task does not know.
        """
        if unknown := set(self.features) - {feature.name for feature in task.features}:
            raise FeatureError(
                f"Service {self.service!r} gives {', '.join(sorted(unknown))}, which task {task.name!r} does not read."
            )
        given = {f.name for f in task.features if f.view in ("key", "context", "row") or f.name in self.features}
        given |= {f.name for f in task.features if f.of and set(f.of) <= given}
        return tuple(feature for feature in task.features if feature.name in given)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "service": self.service,
            "fingerprint": self.fingerprint,
            "views": [asdict(view) for view in self.views],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSet:
        """Rebuild it from `to_json`."""
        return cls(data["service"], tuple(View(**{**v, "join_keys": tuple(v["join_keys"])}) for v in data["views"]))
