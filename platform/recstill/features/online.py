"""Materialize: write the newest values to the online store, and pack them for serving."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from recstill.api.errors import FeatureError, IntegrityError
from recstill.data.arrow import typed_columns
from recstill.data.files import new_folder, read_card, write_card
from recstill.data.packed import PackedStore, open_store, write_view
from recstill.data.versions import CARD, next_name, prune
from recstill.features.newest import EPOCH, has_data, latest_event, newest
from recstill.features.repo import all_views

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from feast import FeatureStore

    from recstill.data.columns import Typed
    from recstill.features.featureset import View

__all__ = ["EPOCH", "latest_event", "materialize", "newest", "online_rows"]


def materialize(
    store: FeatureStore,
    root: Path,
    until: datetime,
    progress: Callable[[str], None],
    names: Collection[str] | None = None,
    damaged: Mapping[str, str] | None = None,
) -> PackedStore:
    """Bring the online store to `until` and write a packed version of it below `root`; both say the same values.

    names: the views to work on, all that are there at request time if None. A view that is not worked on, that fails, or
    whose data is not here keeps the values of the current version, with the moment that they are of; `meta["failed"]` says
    why a view failed. The version becomes current only when it is whole. Killed at any moment, the older version stays in
    place. Call it for one root in one process at a time.
    damaged: by view, what is wrong with its source; it counts as failed.
    Raise FeatureError if no view could be brought to `until`.
    """
    damaged = damaged or {}
    _check_moment(until)
    online = [view for view in all_views(store) if view.availability == "request"]
    chosen = [view for view in online if names is None or view.name in names]
    here = [view for view in chosen if has_data(store, store.get_feature_view(view.name))]
    if absent := [view.name for view in chosen if view not in here]:
        progress(f"left out, because their data sets are not here: {', '.join(absent)}")
    if not here:
        raise FeatureError("No data set with online features is here yet. Run `recstill data fetch` and `features apply`.")
    cards: dict[str, Any] = {}
    failed: dict[str, str] = {}
    version = next_name(root)
    with new_folder(root / version) as folder:
        for view in here:
            progress(view.name)
            try:
                if view.name in damaged:
                    raise FeatureError(damaged[view.name])
                cards[view.name] = _bring(store, view, until, folder, progress)
            except Exception as error:  # whatever a source or a store raises: one view does not stop the others
                failed[view.name] = f"{type(error).__name__}: {error}" if not isinstance(error, FeatureError) else str(error)
                progress(f"{view.name} failed: {failed[view.name]}")
                shutil.rmtree(folder / view.name, ignore_errors=True)
        if failed and not cards:
            raise FeatureError("No view could be materialized:\n" + "\n".join(f"  - {n}: {w}" for n, w in failed.items()))
        _carry_over([view for view in online if view.name not in cards], root, folder, cards, progress)
        meta = {"version": version, "as_of": until.isoformat(), "views": cards, "failed": failed}
        write_card(folder / CARD, meta)
    packed = open_store(root / version)
    write_card(root / "current.json", {"version": version})
    prune(root, root / version)
    return packed


def _check_moment(until: datetime) -> None:
    if until < EPOCH:
        raise FeatureError(f"{until:%Y-%m-%d} is before {EPOCH:%Y-%m-%d}, the earliest moment that features can be of.")
    if until > datetime.now(UTC):
        raise FeatureError(f"{until:%Y-%m-%d %H:%M} UTC lies in the future; nobody knows the values of that moment yet.")


def _bring(store: FeatureStore, view: View, until: datetime, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Pack a view as of `until`, write it to Feast's online store, and return its card."""
    table = newest(store, view, until)
    card = write_view(folder, view.name, view.join_keys, typed_columns(table))
    for feature, reason in card["unserved"].items():
        progress(f"{view.name}:{feature}: left out, {reason}")
    for remark in store.materialize(EPOCH, until, feature_views=[view.name]) or ():
        progress(remark)
    return card | {"features": dict(view.features), "as_of": until.isoformat()}


def _carry_over(views: list[View], root: Path, folder: Path, cards: dict[str, Any], progress: Callable[[str], None]) -> None:
    """Take from the current version what is not made anew, where it still is what the view promises."""
    if not (root / "current.json").is_file():
        return
    try:
        current = root / str(read_card(root / "current.json")["version"])
        meta = read_card(current / CARD)
    except (IntegrityError, OSError) as error:
        progress(f"the values of before cannot be read, so none is kept: {error}")
        return
    for view in views:
        card = meta["views"].get(view.name)
        if card is None:
            continue
        if (card.get("features"), card["join_keys"]) != (dict(view.features), list(view.join_keys)):
            progress(f"{view.name}: its definition has changed since its values were packed, so they are not served any more")
            continue
        try:
            open_store(current, [view.name])
        except (FeatureError, IntegrityError) as error:
            progress(f"{view.name}: its values of before cannot be kept, so they are not served any more: {error}")
            continue
        cards[view.name] = {"as_of": meta["as_of"], **card}
        progress(f"{view.name} keeps its values as of {card.get('as_of', meta['as_of'])}")
        shutil.copytree(current / view.name, folder / view.name, copy_function=_link)


def _link(source: str, target: str) -> None:
    """Share a file that never changes; copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def online_rows(store: FeatureStore, view: View, entities: Mapping[str, Typed]) -> dict[str, list[Any]]:
    """Read a view from Feast's online store, the slow and authoritative way."""
    rows = {key: values.tolist() for key, values in entities.items()}
    features = [f"{view.name}:{feature}" for feature in view.features]
    return store.get_online_features(features=features, entity_rows=rows).to_dict()
