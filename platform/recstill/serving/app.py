"""The ASGI application: mounted in the bento, so that the hot path pays no framework."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from recstill.api.errors import FeatureError, IntegrityError, RequestError
from recstill.api.task import TaskSpec
from recstill.data.columns import Column
from recstill.data.files import read_json
from recstill.data.packed import open_store
from recstill.data.versions import hold, standing
from recstill.serving import telemetry
from recstill.serving.cards import check_card, check_online, read_models
from recstill.serving.decision_log import DecisionLog
from recstill.serving.decisions import Reasons, decided
from recstill.serving.openapi import openapi
from recstill.serving.request import parse_request
from recstill.serving.scorer import Scored, Scorer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import IO

    from starlette.requests import Request

_log = logging.getLogger("recstill.serving")


class Service:
    """The models of one worker. Routes are known from the manifests at once; `load` reads the models themselves."""

    def __init__(self, models: Path, decisions: Path) -> None:
        self.models, self.decisions = models, decisions
        self.log: DecisionLog | None = None
        self.cards: dict[str, dict[str, Any]] = {card["task"]: card for card in read_models(models)[0]}
        for card in self.cards.values():
            check_card(models, card)
        self.tasks = {
            name: TaskSpec(**read_json(models / card["bundle"] / "manifest.json")["task"]) for name, card in self.cards.items()
        }
        self.scorers: dict[str, Scorer] = {}
        self._held: IO[bytes] | None = None

    def load(self, online: Path) -> None:
        """Verify and load every model and warm it up, with a version of the online features that is kept while we serve.

        A version that is gone (a worker may start long after its server) gives way to the newest one beside it that fits all
        models, else to the features of the bento.
        """
        misfits = []
        for folder in standing(online, self.models.parent / "online"):
            try:
                self._held = hold(folder)
                self._load_from(folder)
            except (FeatureError, IntegrityError) as error:
                misfits.append(error)
                if folder == online:
                    raise
                continue
            if folder != online:
                _log.warning("%s is gone; serving the features of %s", online, folder)
            return
        raise misfits[0] if misfits else FeatureError(f"{online} holds no online features, and nothing beside it does.")

    def _load_from(self, online: Path) -> None:
        check_online(self.models, online)
        for task, card in self.cards.items():
            folder = self.models / card["bundle"]
            views = [view["name"] for view in read_json(folder / "manifest.json")["features"]["views"]]
            store = open_store(online, views)
            scorer = Scorer(card["version"], folder, store, self._vectors(card, store.version))
            scorer.warm_up()
            if scorer.task.decision is not None and self.log is None:
                self.log = DecisionLog(self.decisions)
            telemetry.MODEL.labels(task, card["version"]).set(1)
            self.scorers[task] = scorer

    def _vectors(self, card: dict[str, Any], online: str) -> Path | None:
        """Return the checked file of item vectors that the bento brings, if they are of the features that are online."""
        if card.get("vectors_of") != online:
            return None
        check_card(self.models, card)
        return self.models / str(card["vectors"])

    @property
    def is_ready(self) -> bool:
        return set(self.scorers) == set(self.cards)

    def app(self) -> Starlette:
        """Return the application."""

        async def health(_: Request) -> Response:
            return _json(200, {"status": "ok"})

        async def ready(_: Request) -> Response:
            return _json(200 if self.is_ready else 503, {"ready": self.is_ready})

        async def describe(_: Request) -> Response:
            return _json(200, openapi(self.tasks.values()))

        async def models(_: Request) -> Response:
            return _json(200, [_about(scorer) for scorer in self.scorers.values()])

        async def metrics(_: Request) -> Response:
            from prometheus_client import generate_latest

            return Response(generate_latest(), media_type="text/plain")

        routes = [
            Route("/healthz", health),
            Route("/readyz", ready),
            Route("/metrics", metrics),
            Route("/openapi.json", describe),
            Route("/v1/models", models),
        ]
        for name, task in self.tasks.items():
            routes.append(Route(task.endpoint.path, self._endpoint(name), methods=["POST"]))
        return Starlette(routes=routes)

    def _endpoint(self, task: str) -> Callable[[Request], Awaitable[Response]]:
        async def score(request: Request) -> Response:
            started = time.perf_counter()
            try:
                if task not in self.scorers:
                    raise RequestError(503, "The model is still loading.")
                response = self._answer(task, await _body(request, self.tasks[task].endpoint.max_body_bytes))
            except RequestError as error:
                response = _json(error.status, {"error": str(error)})
            except Exception:
                telemetry.REQUESTS.labels(task, "500").inc()
                raise
            telemetry.REQUESTS.labels(task, str(response.status_code)).inc()
            telemetry.DURATION.labels(task, "total").observe(time.perf_counter() - started)
            return response

        return score

    def _answer(self, task: str, body: bytes) -> Response:
        scorer = self.scorers[task]
        request = parse_request(body, scorer.task, scorer.brought, scorer.types)
        if scorer.index is not None:
            with telemetry.DURATION.labels(task, "score").time():
                ids, scores, unknown = scorer.rank(request)
            found = ranked(scorer, ids.tolist(), scores.tolist(), unknown)
            remarks = scorer.context_remarks(request.context)
            return _json(200, {**found, **({"remarks": {"context": remarks}} if remarks else {})})
        if request.explain and not (scorer.manifest.part_names or scorer.manifest.attributed):
            raise RequestError(
                422,
                f"{scorer.version} was exported without reasons; run its recipe again to have them, or leave out 'explain'.",
            )
        with telemetry.DURATION.labels(task, "score").time():
            scored = scorer.score(request)
        telemetry.CANDIDATES.labels(task).observe(len(request.items))
        _count(task, scored)
        if not all(np.isfinite(values).all() for values in scored.scores.values()):
            raise RequestError(500, f"{scorer.version} answered something that is no number; nothing was decided.")
        if scorer.task.decision is None:
            return _json(200, answer(scorer, list(request.sent), scored))
        reasons = Reasons(scorer.manifest) if request.explain else None
        answers = decided(scorer.manifest, scored, np.array(request.sent, object), reasons)
        assert self.log is not None
        assert isinstance(request.items, Column)
        try:
            logged = self.log.write(task, scorer.version, request.items.plain(), answers)
        except OSError as error:
            raise RequestError(503, f"The decision could not be logged, so none was made: {error.strerror}.") from error
        facts = _facts(scorer, list(request.sent), scored) | ({"explained_by": reasons.method} if reasons else {})
        return _json(200, {**facts, "request": logged, "decisions": answers})


def answer(scorer: Scorer, items: list[Any], scored: Scored) -> dict[str, Any]:
    """Return the response: candidates ranked by the primary label."""
    endpoint, primary = scorer.task.endpoint, scorer.task.primary.name
    order = np.argsort(-scored.scores[primary], kind="stable").tolist()
    columns = {label: values.tolist() for label, values in scored.scores.items()}
    rows = [
        {endpoint.item_key: items[place], "rank": rank, **{label: values[place] for label, values in columns.items()}}
        for rank, place in enumerate(order, 1)
    ]
    return {**_facts(scorer, items, scored), "scores": rows}


def ranked(scorer: Scorer, items: list[Any], scores: list[float], unknown: bool) -> dict[str, Any]:
    """Return the response of a request to the whole catalogue."""
    endpoint, label = scorer.task.endpoint, scorer.task.primary.name
    rows = [
        {endpoint.item_key: item, "rank": rank, label: score}
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), 1)
    ]
    return {"model_version": scorer.version, "unknown": {endpoint.query_key: unknown}, "scores": rows}


def _facts(scorer: Scorer, items: list[Any], scored: Scored) -> dict[str, Any]:
    """What the answer rests on, and what was not there."""
    endpoint = scorer.task.endpoint
    query = endpoint.query_key
    lists = {"unknown": scored.unknown_items, "unseen": scored.unseen_items}
    flags = {"unknown": scored.unknown_query, "unseen": scored.unseen_query}
    return {
        "model_version": scorer.version,
        "degraded": bool(scored.missing_views) or bool(scored.nothing_known.any()),
        **{
            name: {
                **({query: flags[name]} if query else {}),
                endpoint.items_field: [items[place] for place in np.flatnonzero(found).tolist()],
            }
            for name, found in lists.items()
        },
        "missing_views": dict(scored.missing_views),
        **({"remarks": remarks} if (remarks := _remarks(items, scored)) else {}),
    }


def _remarks(items: list[Any], scored: Scored) -> dict[str, list[str]]:
    """What was outside of what training saw, by item, and of the context."""
    found: dict[str, list[str]] = {"context": list(scored.context_remarks)} if scored.context_remarks else {}
    for place, said in scored.remarks.items():
        found[str(items[place])] = [*found.get(str(items[place]), []), *said]
    return found


def _count(task: str, scored: Scored) -> None:
    if scored.missing_views or scored.nothing_known.any():
        telemetry.DEGRADED.labels(task).inc()
        for view, count in scored.missing_views.items():
            telemetry.MISSING.labels(task, view).inc(count)
    if scored.unknown_query:
        telemetry.UNKNOWN.labels(task, "query").inc()
    if num_items := int(scored.unknown_items.sum()):
        telemetry.UNKNOWN.labels(task, "item").inc(num_items)


def _about(scorer: Scorer) -> dict[str, Any]:
    manifest = scorer.manifest
    return {
        "task": manifest.task.name, "model_version": scorer.version, "model": manifest.model, "run": manifest.run,
        "feature_service": manifest.feature_service, "fingerprint": manifest.fingerprint,
        "online_version": scorer.store.version, "online_as_of": scorer.store.meta["as_of"],
    }  # fmt: skip


async def _body(request: Request, limit: int) -> bytes:
    """Read the body, and stop as soon as it is too large."""
    declared = request.headers.get("content-length", "0")
    size, parts = 0, []
    if not declared.isdigit() or int(declared) > limit:
        raise RequestError(413, f"The body may have at most {limit} bytes.")
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise RequestError(413, f"The body may have at most {limit} bytes.")
        parts.append(part)
    return b"".join(parts)


def _json(status: int, content: Any) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
