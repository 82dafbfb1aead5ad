"""Many processes at once, on both servers."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from registry_rows import add, settings_in
from sqlmodel import select

from recstill.api.errors import RegistryError
from recstill.registry import open_registry
from recstill.registry.audit import list_audit
from recstill.registry.models import FeatureSetRow, ReviewRow
from recstill.registry.reviews import decide
from recstill.registry.versions import aliases_of, find_version, list_versions, roll_back, set_alias
from recstill.settings import Settings

NUM_PROCESSES, NUM_STEPS = 4, 25


def in_processes(work: Callable[..., None], settings: Settings) -> list[Any]:
    """Call work(settings, name, queue) in several processes at once; return what each put into the queue."""
    context = multiprocessing.get_context("fork")  # a spawned process imports for seconds, and then they hardly meet
    queue = context.Queue()
    workers = [context.Process(target=work, args=(settings, f"w{number}", queue)) for number in range(NUM_PROCESSES)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    return found


def _open(settings: Settings, name: str, queue: Any) -> None:
    own_home = settings.home / name  # hosts share a database, not a folder
    url = settings.registry_url if "postgres" in settings.registry_url else ""
    shared = settings_in(own_home, url) if url else settings
    try:
        queue.put(open_registry(shared).is_new)
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


def test_hosts_that_open_an_empty_database_at_once_all_succeed(settings: Settings) -> None:
    assert sorted(in_processes(_open, settings)) == [False] * (NUM_PROCESSES - 1) + [True]


def _work(settings: Settings, name: str, queue: Any) -> None:
    registry, draw, added = open_registry(settings), random.Random(name), 0
    try:
        for step in range(NUM_STEPS):
            action = draw.choice(["add", "add", "champion", "challenger", "rollback", "read"])
            with registry.read() as session:
                known = list_versions(session)
            if action == "add" or not known:
                with registry.transaction() as session:
                    add(registry, session, f"{name}-{step}")
                added += 1
            elif action == "rollback":
                with registry.transaction() as session:
                    if "previous" in aliases_of(session, "ads"):
                        roll_back(registry, session, "ads")
            elif action != "read":
                with registry.transaction() as session:
                    chosen = find_version(session, f"ads:{draw.choice(known).number}")
                    set_alias(registry, session, chosen, action, reason=name)
        queue.put(added)
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


def test_nothing_is_lost_between_processes(settings: Settings) -> None:
    added = in_processes(_work, settings)
    assert all(isinstance(count, int) for count in added), added
    with open_registry(settings).read() as session:
        numbers = [version.number for version in list_versions(session)]
        assert numbers == list(range(1, sum(added) + 1))
        assert len(session.exec(select(FeatureSetRow)).all()) == 1
        for alias in ("champion", "challenger"):
            before = None
            for row in reversed(list_audit(session, f"ads@{alias}", limit=1000)):
                assert row.details["before"] == before
                before = row.details["number"]
            assert aliases_of(session, "ads").get(alias) == before


def _decide(settings: Settings, name: str, queue: Any) -> None:
    registry = open_registry(settings)
    try:
        with registry.transaction() as session:
            queue.put(decide(registry, session, 1, f"decision of {name}", "").decision)
    except RegistryError as error:
        queue.put(error)


def test_one_of_several_reviewers_decides(settings: Settings) -> None:
    registry = open_registry(settings)
    with registry.transaction() as session:
        session.add(ReviewRow(request="r", task="credit", model_version="credit:1", subject="s", score=0.5, band="E",
                              scored_at=datetime.now(UTC)))  # fmt: skip
    found = in_processes(_decide, settings)
    decided = [one for one in found if isinstance(one, str)]
    assert len(decided) == 1
    assert all("Decisions are not changed" in str(one) for one in found if not isinstance(one, str))
    with registry.read() as session:
        assert session.exec(select(ReviewRow)).one().decision == decided[0]
