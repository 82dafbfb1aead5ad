"""Names to things, with the plugin that offered each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from recstill.api.errors import PluginError, UnknownNameError

T = TypeVar("T")


class Catalog(Mapping[str, T], Generic[T]):
    """All things of one kind that the enabled plugins offer.

    A name that two plugins offer belongs to neither: it is not listed, and asking for it names both.
    hint: what to say of an unknown name, such as which plugin offers it but takes no part.
    """

    def __init__(self, kind: str, hint: Callable[[str], str] | None = None) -> None:
        self.kind = kind
        self._hint = hint
        self._things: dict[str, T] = {}
        self._owners: dict[str, list[str]] = {}

    def add(self, name: str, thing: T, owner: str) -> None:
        """Add one thing that the distribution `owner` offers."""
        self._owners.setdefault(name, []).append(owner)
        self._things[name] = thing

    @property
    def clashes(self) -> dict[str, list[str]]:
        """Names that several distributions offer, with those distributions."""
        return {name: owners for name, owners in self._owners.items() if len(owners) > 1}

    def owner(self, name: str) -> str:
        """Return the distribution that offers the name."""
        self[name]
        return self._owners[name][0]

    def clash_words(self, name: str) -> str:
        """Say which distributions offer the name, and what to do."""
        owners = self._owners[name]
        offered = " and ".join(repr(owner) for owner in owners)
        commands = " or ".join(f"`recstill plugins disable {owner}`" for owner in owners)
        return f"{self.kind} {name!r} is offered by {offered}. Disable one: {commands}."

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            raise UnknownNameError(self.kind, name, self, self._hint(name) if self._hint else "")
        if len(self._owners[name]) > 1:
            raise PluginError(self.clash_words(name))
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(name for name, owners in self._owners.items() if len(owners) == 1))

    def __len__(self) -> int:
        return sum(len(owners) == 1 for owners in self._owners.values())
