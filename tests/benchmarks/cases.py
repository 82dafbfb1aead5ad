"""What a request of each case costs in the process of a server, without HTTP."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recstill.data.packed import current_version, open_store
from recstill.recipes.platform import Platform
from recstill.registry.versions import list_versions
from recstill.serving.decision_log import DecisionLog
from recstill.serving.decisions import Reasons, decided
from recstill.serving.request import ScoreRequest
from recstill.serving.scorer import Scorer

Case = tuple[str, str, str]


def cases(platform: Platform) -> Iterator[Case]:
    """Yield (what, measured, against what) of every case that a demo has registered in this home."""
    measured = {"credit": risk, "search": search, "search-rank": rank}
    for name, measure in measured.items():
        scorer = newest(platform, name)
        if scorer is None:
            yield name, "no model is registered: run its recipe first", ""
        else:
            yield from measure(scorer)


def newest(platform: Platform, name: str) -> Scorer | None:
    with platform.registry.transaction() as session:
        found = [(f"{v.model_name}:{v.number}", v.artifact) for v in list_versions(session) if v.model_name == name]
    if not found or not (platform.settings.home / "online" / "current.json").is_file():
        return None
    version, artifact = found[-1]
    scorer = Scorer(version, platform.artifacts.get(artifact), open_store(current_version(platform.settings.folder("online"))))
    scorer.warm_up()
    return scorer


def risk(scorer: Scorer) -> Iterator[Case]:
    ids, rows = np.array([17]), {"age": np.array([36.0]), "education": np.array(["university"], object)}

    def ask(explain: bool) -> Any:
        return scorer.score(ScoreRequest(None, ids, {}, rows, explain=explain))

    scored, reasons = ask(explain=True), Reasons(scorer.manifest)
    plain = median(lambda: ask(explain=False))
    explained = median(lambda: decided(scorer.manifest, ask(explain=True), ids, reasons))
    yield "risk, one applicant", f"{plain:.2f} ms", ""
    yield f"risk, with reasons ({reasons.method})", f"{explained:.2f} ms", f"{explained / plain:.1f} x without"
    answers = decided(scorer.manifest, scored, ids, None)
    with tempfile.TemporaryDirectory() as folder:
        log = DecisionLog(Path(folder) / "decisions")
        written = median(lambda: log.write("credit", scorer.version, ids, answers))
    yield "risk, the decision written to the log", f"{written:.2f} ms", f"{written / plain:.1f} x the score"


def search(scorer: Scorer) -> Iterator[Case]:
    view = scorer.features.item_view()
    assert view is not None
    assert view.ids is not None
    known = view.ids.plain()
    random, fresh = np.random.default_rng(0), []
    for number in range(20):
        ids = random.choice(known, 200, replace=False)
        fresh.append(
            milliseconds(lambda ids=ids, n=number: scorer.score(ScoreRequest(None, ids, {"query": f"white bread {n}"}, {})))
        )  # type: ignore[misc]
    again = median(lambda: scorer.score(ScoreRequest(None, ids, {"query": "white bread"}, {})))
    new = statistics.median(fresh)
    yield (
        "search, a pair whose title was not met before",
        f"{new / 200 * 1000:.0f} µs",
        f"{new / again:.1f} x a title met before",
    )
    yield "search, a pair", f"{again / 200 * 1000:.0f} µs", ""


def rank(scorer: Scorer) -> Iterator[Case]:
    assert scorer.index is not None
    whole = median(lambda: scorer.rank(ScoreRequest(None, np.zeros(0, np.int64), {"query": "ice cream"}, {}, k=10)))
    yield f"rank, the best 10 of {len(scorer.index.ids):,}", f"{whole:.2f} ms", ""


def milliseconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def median(work: Callable[[], Any], times: int = 200) -> float:
    return statistics.median(milliseconds(work) for _ in range(times))
