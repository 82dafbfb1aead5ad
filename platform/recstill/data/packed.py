"""Packed views: what the feature store holds online, as memory-mapped arrays that all serving workers share.

Feast's own read path costs 100 ms for 500 candidates; a gather from these arrays costs microseconds. One folder is one
immutable version; `current.json` beside the versions names the one to serve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import FeatureError
from recstill.data.columns import Column, Columns, Lists, Typed, Values, as_column, item_type
from recstill.data.files import check_sha256, read_card, read_json, sha256_of, write_json
from recstill.data.keys import check_category, fold_keys, to_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKED = ("int", "bool", "float", "string", "date", "timestamp", "null")
_IDS, _KEYS = "#ids", "#keys.npy"  # no feature has such a name


def combine_keys(columns: Sequence[Typed | Values]) -> NDArray[np.uint64]:
    """Fold one or more join-key columns into one 64-bit key per row; 0 where one of them is missing."""
    return fold_keys([to_keys(column) for column in columns])


@dataclass(frozen=True)
class _Stored:
    """A mapped column. texts: what its codes stand for, None first."""

    kind: str
    values: Values
    missing: NDArray[np.bool_] | None = None
    texts: NDArray[np.object_] | None = None

    def read(self, rows: NDArray[np.int64]) -> Column:
        """Return some rows, missing where the row is -1."""
        absent, places = rows < 0, np.maximum(rows, 0)
        values = self.values[places] if len(self.values) else np.zeros(len(rows), self.values.dtype)
        if self.texts is not None:
            return Column(self.kind, self.texts[np.where(absent, 0, values)])
        if values.dtype.kind in "fM":
            nothing = np.datetime64("NaT") if values.dtype.kind == "M" else values.dtype.type(np.nan)
            return Column(self.kind, np.where(absent, nothing, values))
        missing = absent if self.missing is None or not len(self.values) else absent | self.missing[places]
        return Column(self.kind, values, missing if missing.any() else None)


@dataclass(frozen=True)
class _StoredLists:
    """A mapped column of lists, their items one after the other."""

    items: _Stored
    offsets: NDArray[np.int64]

    def read(self, rows: NDArray[np.int64]) -> Lists:
        """Return some rows, an empty list where the row is -1."""
        known = np.where(rows < 0, len(self.offsets) - 1, rows)
        starts = self.offsets[known]
        lengths = self.offsets[np.minimum(known + 1, len(self.offsets) - 1)] - starts
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return Lists(self.items.read(np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)), offsets)


@dataclass(frozen=True)
class PackedView:
    """One view: sorted keys, and its features. types: the logical type of each feature and join key. ids: what the keys stand
    for, in a view of one key. unserved: features that are not packed, and why."""

    name: str
    join_keys: tuple[str, ...]
    keys: NDArray[np.uint64]
    stored: Mapping[str, _Stored | _StoredLists]
    types: Mapping[str, str]
    ids: Column | None = None
    unserved: Mapping[str, str] = field(default_factory=dict)

    def find(self, columns: Sequence[Typed | Values]) -> NDArray[np.int64]:
        """Return the row of each entity, -1 where there is none. One column of values per join key."""
        typed = [as_column(column, self.types[key]) for key, column in zip(self.join_keys, columns, strict=True)]
        return self.find_keys(combine_keys(typed))

    def find_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each folded key, -1 where there is none; no row has the key 0 of a missing entity."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, -1)

    def read(self, feature: str, rows: NDArray[np.int64]) -> Typed:
        """Return a feature of some rows, of the type that the view declares; missing where the row is -1."""
        if reason := self.unserved.get(feature):
            raise FeatureError(f"Feature {self.name}:{feature} is not served: {reason}.")
        if feature not in self.stored:
            raise FeatureError(f"View {self.name!r} has no feature {feature!r} online. Run `recstill features materialize`.")
        return self.stored[feature].read(rows)


@dataclass(frozen=True)
class PackedStore:
    """All views of one version."""

    folder: Path
    meta: Mapping[str, Any]
    views: Mapping[str, PackedView]

    @property
    def version(self) -> str:
        return str(self.meta["version"])


def write_view(folder: Path, name: str, join_keys: Sequence[str], columns: Columns) -> dict[str, Any]:
    """Write one view below `folder` and return its card. `columns` holds the join keys and the features.

    Rows whose key is null are no entity: they are left out, and the card counts them. Features of a type that cannot be
    served are left out too, and the card says why. Raise FeatureError for a key of such a type.
    """
    typed = {column: as_column(values) for column, values in columns.items()}
    target = folder / name
    target.mkdir(parents=True)
    for key in join_keys:
        check_category(f"{name}:{key}", typed[key].type)
    keys = combine_keys([typed[key] for key in join_keys])
    order = np.argsort(keys, kind="stable")
    order = order[keys[order] != 0]
    np.save(target / _KEYS, keys[order])
    unserved: dict[str, str] = {}
    if len(join_keys) == 1:
        _write(target, _IDS, typed[join_keys[0]][order])
    for feature in (feature for feature in typed if feature not in join_keys):
        if reason := unserved_reason(typed[feature].type):
            unserved[feature] = reason
        else:
            _write(target, feature, typed[feature][order])
    files = {path.name: sha256_of(path) for path in sorted(target.iterdir())}
    return {
        "join_keys": list(join_keys), "num_rows": len(order), "null_keys": len(keys) - len(order),
        "types": {column: values.type for column, values in typed.items()}, "unserved": unserved, "files": files,
    }  # fmt: skip


def unserved_reason(kind: str) -> str:
    """Say why values of a type cannot be served; empty for those that can."""
    if (item_type(kind) or kind) in PACKED:
        return ""
    return f"values of type {kind} cannot be packed; declare it as a number, string, boolean, timestamp, or a list of them"


def _write(target: Path, name: str, column: Typed) -> None:
    if isinstance(column, Lists):
        np.save(target / f"{name}#offsets.npy", column.offsets)
        _write(target, f"{name}#items", column.items)
        return
    if column.values.dtype.kind == "O":
        texts = column.values.tolist()
        distinct = [None, *sorted({text for text in texts if text is not None})]
        code = {text: place for place, text in enumerate(distinct)}
        write_json(target / f"{name}.json", distinct)
        np.save(target / f"{name}.npy", np.fromiter((code[text] for text in texts), np.int32, len(texts)))
        return
    np.save(target / f"{name}.npy", column.values)
    if column.missing is not None:
        np.save(target / f"{name}#missing.npy", column.missing)


def _open(folder: Path, name: str, kind: str) -> _Stored | _StoredLists:
    if item := item_type(kind):
        items = _open(folder, f"{name}#items", item)
        assert isinstance(items, _Stored)
        return _StoredLists(items, np.load(folder / f"{name}#offsets.npy", mmap_mode="r"))
    values = np.load(folder / f"{name}.npy", mmap_mode="r")
    if (folder / f"{name}.json").is_file():
        return _Stored(kind, values, None, np.array(read_json(folder / f"{name}.json"), dtype=object))
    gaps = folder / f"{name}#missing.npy"
    return _Stored(kind, values, np.load(gaps, mmap_mode="r") if gaps.is_file() else None)


def open_store(folder: Path, views: Sequence[str] | None = None) -> PackedStore:
    """Verify and map a version. Raise IntegrityError if a file was changed, FeatureError for one of another format."""
    if not (folder / "online.json").is_file():
        raise FeatureError(f"{folder} holds no online features. Run `recstill features materialize`.")
    meta = read_card(folder / "online.json", "Run `recstill features materialize` again.")
    opened = {}
    for name, card in meta["views"].items():
        if views is not None and name not in views:
            continue
        if "types" not in card or _KEYS not in card["files"]:
            raise FeatureError(f"{folder} was packed by an older recstill. Run `recstill features materialize` again.")
        for file, digest in card["files"].items():
            check_sha256(folder / name / file, digest, "Run `recstill features materialize` again.")
        opened[name] = _open_view(folder / name, name, card)
    return PackedStore(folder, meta, opened)


def _open_view(folder: Path, name: str, card: Mapping[str, Any]) -> PackedView:
    keys, types, unserved = tuple(card["join_keys"]), dict(card["types"]), dict(card["unserved"])
    features = [feature for feature in types if feature not in keys and feature not in unserved]
    stored = {feature: _open(folder, feature, types[feature]) for feature in features}
    hashed = np.load(folder / _KEYS, mmap_mode="r")
    ids = _open(folder, _IDS, types[keys[0]]).read(np.arange(len(hashed))) if len(keys) == 1 else None
    assert not isinstance(ids, Lists)
    return PackedView(name, keys, hashed, stored, types, ids, unserved)


def current_version(root: Path) -> Path:
    """Return the folder of the version to serve."""
    if not (root / "current.json").is_file():
        raise FeatureError("Nothing is materialized yet. Run `recstill features materialize`.")
    return root / str(read_card(root / "current.json", "Run `recstill features materialize` again.")["version"])
