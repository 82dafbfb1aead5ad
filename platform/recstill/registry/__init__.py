"""The registry: what exists, where it came from, what is live."""

from recstill.registry.engine import Registry, open_registry

__all__ = ["Registry", "open_registry"]
