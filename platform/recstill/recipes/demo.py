"""The main job on real data, start to finish."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recstill.api.errors import FeatureError, GateError
from recstill.data.fetch import fetch
from recstill.recipes.feature_scope import scope_of
from recstill.recipes.features import check_own_store, ensure_features, materialize_features
from recstill.recipes.packaging import package
from recstill.recipes.release import promote
from recstill.recipes.run import run_recipe
from recstill.recipes.serving import post, running_server
from recstill.recipes.strict_yaml import read_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.api.task import Dataset
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


def run_demo(platform: Platform, task_name: str, overrides: list[str], progress: Progress) -> DemoResult:
    """Fetch, define, train, promote, package, serve and score; each step is also a command of its own.

    task_name: a task, or the use case that one demonstrates.
    """
    check_own_store(platform, "The demo")
    tasks = platform.catalog("tasks")
    if task_name not in tasks:
        task_name = next((name for name in tasks if tasks[name].spec.case == task_name), task_name)
    task = platform.task(task_name)
    for dataset in (platform.dataset_of(task), *_pretrained(platform, task.spec.default_recipe)):
        with progress.stage(f"fetching {dataset.name}: {dataset.description}"):
            fetch(dataset, platform.settings.cache, progress=progress.download)
    with progress.stage("applying feature definitions"):
        ensure_features(platform, progress.say)
    result = run_recipe(platform, task.spec.default_recipe, overrides, progress)
    with progress.stage("materializing features"):
        _materialize(platform, result.student, progress)
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
    return DemoResult(result, bento, request, response, promotion)


def _materialize(platform: Platform, student: str, progress: Progress) -> None:
    """Bring online what the student reads, and not the features of other tasks. Raise FeatureError for a view that fails."""
    scope = scope_of(platform, (), (), (student,))
    if not scope.views:
        return
    failed = materialize_features(platform, None, lambda view: progress.say(f"  {view}"), scope)["failed"]
    if failed:
        raise FeatureError("\n".join(f"View {view}: {reason}" for view, reason in failed.items()))


def _pretrained(platform: Platform, recipe: str) -> list[Dataset]:
    """Return the pretrained models that a recipe's teacher starts from."""
    part = read_yaml(platform.catalog("recipes")[recipe], f"Recipe {recipe}")["teacher"]
    needs = getattr(platform.catalog("teachers").get(part["name"]), "needs", lambda _: ())(part.get("options") or {})
    return [platform.catalog("datasets")[name] for name in needs]


def _request(platform: Platform, task_name: str) -> dict[str, Any]:
    """A real group of the test split: its query, its context, up to 10 of its items, and what the request says of each."""
    from recstill.data.snapshot import open_snapshot
    from recstill.registry.runs import list_snapshots

    spec = platform.task(task_name).spec
    endpoint = spec.endpoint
    with platform.registry.read() as session:
        newest = list_snapshots(session, task_name)[0].id
    snapshot = open_snapshot(newest, platform.settings.folder("snapshots"))
    own = [feature.name for feature in spec.features if feature.view == "row"]
    names = [*spec.groups, endpoint.item_key, *own, *(field.name for field in endpoint.context)]
    names += [endpoint.query_key] if endpoint.query_key else []
    columns = {name: values.tolist() for name, values in snapshot.columns(names, snapshot.rows_of("test")).items()}
    keys = [columns[name] for name in spec.groups] or [list(range(len(columns[endpoint.item_key])))]
    group = list(zip(*keys, strict=True))
    places = [place for place, key in enumerate(group) if key == group[-1]][-10:]
    items = [columns[endpoint.item_key][place] for place in places]
    request: dict[str, Any] = {endpoint.query_key: columns[endpoint.query_key][places[-1]]} if endpoint.query_key else {}
    if endpoint.catalogue:
        request["k"] = 10
    elif own:
        request[endpoint.items_field] = [
            {endpoint.item_key: item, **{name: columns[name][place] for name in own}}
            for item, place in zip(items, places, strict=True)
        ]
    else:
        request[endpoint.items_field] = items
    if endpoint.context:
        request["context"] = {field.name: columns[field.name][places[-1]] for field in endpoint.context}
    return request | ({"explain": True} if spec.decision is not None else {})


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
