"""The signal stores of an installation: what is there, how good it is, and what can go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recstill.api.errors import RecstillError, UnknownNameError
from recstill.data.snapshot import open_snapshot
from recstill.distillation.signals import age_in_days, open_signals
from recstill.distillation.store import list_stores
from recstill.recipes.garbage import why_useless
from recstill.recipes.loading import load_recipe
from recstill.recipes.run import begin_run, prepare_run
from recstill.recipes.stage_inputs import score_inputs
from recstill.recipes.stages import taught_versions
from recstill.recipes.teaching import store_of
from recstill.recipes.working import working
from recstill.registry.runs import finish_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.distillation.store import SignalStore
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress


def list_signals(platform: Platform, task: str | None = None) -> list[dict[str, Any]]:
    """Return a row for every set of signals."""
    found = []
    for store in list_stores(platform.settings.folder("signals")):
        if task is None or store.key.task == task:
            found.append({"signals": reference_of(store), **_facts(platform, store)})
    return found


def show_signals(platform: Platform, reference: str) -> dict[str, Any]:
    """Return what is known of one set of signals, after checking every part's digest."""
    store = _find(platform, reference)
    card = store.card or {}
    facts = {"signals": reference, **_facts(platform, store)}
    facts |= {name: card.get(name) for name in ("kind", "labels", "hidden", "sampling_rate", "snapshot_sha256", "schema")}
    facts["folder"] = store.folder
    try:
        snapshot = open_snapshot(store.key.snapshot, platform.settings.folder("snapshots"))
        open_signals(store, snapshot.meta["sha256"])
        facts["verified"] = "every part's sha256, and the snapshot's"
    except RecstillError as error:
        facts["verified"] = f"NO: {error}"
    for name, part in card.get("parts", {}).items():
        events = f", events {part['first_event']} to {part['last_event']}" if "first_event" in part else ""
        facts[name] = f"{part['rows']:,} rows, scored {part['scored_at']}{events}"
    return facts


def score_recipe(platform: Platform, reference: str, overrides: Sequence[str], progress: Progress) -> list[str]:
    """Train or take the teachers of a recipe and score its rows; nothing is distilled. Return the signals."""
    run = prepare_run(platform, *load_recipe(platform, reference, overrides), progress)
    with working(run, "call it again; rows that a registered teacher scored are kept"):
        begin_run(run, f"score {run.name}")
        _, versions = taught_versions(run)
        with platform.registry.transaction() as session:
            finish_run(session, run.id, "finished")
    keys = {version: score_inputs(run, role, version, weights).key for version, (role, weights) in versions.items()}
    return [reference_of(store_of(run, version, key)) for version, key in keys.items()]


def reference_of(store: SignalStore) -> str:
    """Name a set of signals: task/teacher/snapshot-key, as their folder is named."""
    return f"{store.key.task}/{store.key.teacher}/{store.folder.name}"


def _find(platform: Platform, reference: str) -> SignalStore:
    stores = {reference_of(store): store for store in list_stores(platform.settings.folder("signals"))}
    if reference not in stores:
        raise UnknownNameError("signals", reference, stores, "See `recstill signals list`.")
    return stores[reference]


def _facts(platform: Platform, store: SignalStore) -> dict[str, Any]:
    try:
        card = store.card or {}
    except RecstillError as error:
        return {"state": "unreadable", "rows": "", "coverage": "", "age": "", "bytes": store.num_bytes, "note": str(error)}
    with platform.registry.read() as session:
        useless = why_useless(platform, session, store)
    parts = card.get("parts", {})
    rows = sum(part["rows"] for name, part in parts.items() if name.startswith("rows"))
    catalogue = card.get("kind") == "catalogue"
    return {
        "state": "complete" if card.get("complete") else "unfinished",
        "rows": "all pairs" if catalogue else f"{rows:,}",
        "coverage": "1.000" if catalogue else f"{rows / max(card['num_snapshot_rows'], 1):.3f}",
        "age": f"{age_in_days(card):.1f} days" if parts else "",
        "bytes": f"{store.num_bytes:,}",
        "note": useless,
    }
