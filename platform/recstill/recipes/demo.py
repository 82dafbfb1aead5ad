"""The main job on real data, start to finish."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recstill.api.errors import GateError
from recstill.data.fetch import fetch
from recstill.recipes.features import apply_features, materialize_features
from recstill.recipes.packaging import package
from recstill.recipes.release import promote
from recstill.recipes.run import run_recipe
from recstill.recipes.serving import post, running_server

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress
    from recstill.recipes.stages import RunResult


@dataclass(frozen=True)
class DemoResult:
    """What the demo ends with."""

    run: RunResult
    bento: Path
    request: dict[str, Any]
    response: dict[str, Any]
    promotion: str
    primary_label: str


def run_demo(platform: Platform, task_name: str, overrides: list[str], progress: Progress) -> DemoResult:
    """Fetch, define, train, promote, package, serve and score; each step is also a command of its own."""
    task = platform.task(task_name)
    dataset = platform.dataset_of(task)
    with progress.stage(f"fetching {dataset.name}: {dataset.description}"):
        fetch(dataset, platform.settings.cache, progress=progress.download)
    with progress.stage("applying feature definitions"):
        apply_features(platform, progress.say)
    result = run_recipe(platform, task.spec.default_recipe, overrides, progress)
    with progress.stage("materializing features"):
        materialize_features(platform, None, lambda view: progress.say(f"  {view}"))
    try:
        promote(platform, result.student, "champion", "demo")
        promotion = f"{result.student} is champion"
    except GateError as error:
        promotion = str(error)
    with progress.stage(f"packaging {result.student}"):
        bento = package(platform, [result.student])
    request = _request(platform, task_name)
    log = platform.settings.folder("logs") / "demo-server.log"
    with progress.stage("serving"), running_server(platform, bento, free_port(), log) as address:
        response = post(f"{address}{task.spec.endpoint.path}", request)
    return DemoResult(result, bento, request, response, promotion, task.spec.primary.name)


def _request(platform: Platform, task_name: str) -> dict[str, Any]:
    """A real group of the test split: its query, its context, and up to 10 of its items."""
    from recstill.data.snapshot import open_snapshot
    from recstill.registry.runs import list_snapshots

    endpoint = platform.task(task_name).spec.endpoint
    with platform.registry.transaction() as session:
        newest = list_snapshots(session, task_name)[0].id
    snapshot = open_snapshot(newest, platform.settings.folder("snapshots"))
    names = [endpoint.query_key, endpoint.item_key, *(field.name for field in endpoint.context)]
    columns = {name: values.tolist() for name, values in snapshot.columns(names, snapshot.rows_of("test")).items()}
    entity = columns[endpoint.query_key][-1]
    places = [place for place, key in enumerate(columns[endpoint.query_key]) if key == entity][-10:]
    return {
        endpoint.query_key: entity,
        endpoint.items_field: [columns[endpoint.item_key][place] for place in places],
        "context": {field.name: columns[field.name][places[-1]] for field in endpoint.context},
    }


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
