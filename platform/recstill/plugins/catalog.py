"""Names to things, with the plugin that offered each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from recstill.api.errors import PluginError, UnknownNameError

T = TypeVar("T")


class Catalog(Mapping[str, T], Generic[T]):
    """All things of one kind that the enabled plugins offer."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}
        self._owners: dict[str, str] = {}

    def add(self, name: str, thing: T, owner: str) -> None:
        """Add one thing. Raise PluginError if another distribution already offers the name."""
        if name in self._things:
            raise PluginError(
                f"{self.kind} {name!r} is offered by both {self._owners[name]!r} and {owner!r}. "
                f"Disable one: `recstill plugins disable {owner}`."
            )
        self._things[name], self._owners[name] = thing, owner

    def owner(self, name: str) -> str:
        """Return the distribution that offers the name."""
        self[name]
        return self._owners[name]

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            raise UnknownNameError(self.kind, name, self._things)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))

    def __len__(self) -> int:
        return len(self._things)
