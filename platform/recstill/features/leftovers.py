"""Which entities the online store holds of a view, and deleting some; Feast has no call for either.

The tables and keys are those that Feast 0.67 writes; a test reads them back through Feast for each store.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, _redis_key_prefix, compute_table_id, compute_versioned_name

if TYPE_CHECKING:
    from collections.abc import Collection

    from feast import FeatureStore, FeatureView

_MANY = 10_000


def stored_keys(store: FeatureStore, view: FeatureView) -> set[bytes] | None:
    """Return the serialized keys of all entities that the online store holds of a view; None for a store we do not know."""
    kind = store.config.online_store.type
    if kind == "sqlite":
        connection = store.provider.online_store._get_conn(store.config)
        return {bytes(key) for (key,) in connection.execute(f'select distinct entity_key from "{_table(store, view)}"')}
    if kind == "postgres":
        with store.provider.online_store._get_conn(store.config) as connection, connection.cursor() as cursor:
            cursor.execute(f'select distinct entity_key from "{_table(store, view)}"')
            keys = {bytes(key) for (key,) in cursor.fetchall()}
            connection.commit()
        return keys
    if kind == "redis":
        return _redis_keys(store, view)
    return None


def delete_keys(store: FeatureStore, view: FeatureView, keys: Collection[bytes]) -> None:
    """Delete entities, by their serialized keys, from what a store that `stored_keys` knows holds of a view."""
    kind = store.config.online_store.type
    if kind == "sqlite":
        with store.provider.online_store._get_conn(store.config) as connection:
            connection.executemany(f'delete from "{_table(store, view)}" where entity_key = ?', [(key,) for key in keys])
    elif kind == "postgres":
        with store.provider.online_store._get_conn(store.config) as connection, connection.cursor() as cursor:
            cursor.executemany(f'delete from "{_table(store, view)}" where entity_key = %s', [(key,) for key in keys])
            connection.commit()
    else:
        _delete_from_redis(store, view, [key + _project(store) for key in keys])


def _table(store: FeatureStore, view: FeatureView) -> str:
    return compute_table_id(store.project, view, store.config.registry.enable_online_feature_view_versioning)


def _project(store: FeatureStore) -> bytes:
    return str(store.project).encode()


def _redis_name(store: FeatureStore, view: FeatureView) -> str:
    return compute_versioned_name(view, store.config.registry.enable_online_feature_view_versioning)


def _redis_keys(store: FeatureStore, view: FeatureView) -> set[bytes]:
    """Return the project's entities that hold the view; all views of one entity share its key in Redis."""
    client = _client(store)
    pattern = _escaped(_redis_key_prefix(view.join_keys)) + b"*" + _escaped(_project(store))
    bodies = [key.removesuffix(_project(store)) for key in client.scan_iter(pattern, count=_MANY)]
    mine = [body for body in bodies if _is_whole(store, body)]
    with client.pipeline(transaction=False) as pipe:
        for body in mine:
            pipe.hexists(body + _project(store), f"_ts:{_redis_name(store, view)}")
        return {body for body, there in zip(mine, pipe.execute(), strict=True) if there}


def _is_whole(store: FeatureStore, body: bytes) -> bool:
    """Say whether this is an entity's key and no more: in a project whose name ends like ours, there is more."""
    version = store.config.entity_key_serialization_version
    try:
        return serialize_entity_key(deserialize_entity_key(body, version), version) == body
    except (struct.error, ValueError, UnicodeDecodeError):
        return False


def _delete_from_redis(store: FeatureStore, view: FeatureView, keys: list[bytes]) -> None:
    name = _redis_name(store, view)
    fields = [*(_mmh3(f"{name}:{field.name}") for field in view.features), f"_ts:{name}"]
    with _client(store).pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hdel(key, *fields)  # a key whose last field goes is gone
        pipe.execute()


def _escaped(pattern: bytes) -> bytes:
    """Escape what means something in Redis' patterns."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^" else bytes([byte]) for byte in pattern)


def _client(store: FeatureStore) -> Any:
    return store.provider.online_store._get_client(store.config.online_store)
