"""Reasons of a network: integrated gradients from the bento, whole, the same twice, and only where they are asked for."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from recstill.data.fetch import fetch
from recstill.data.packed import current_version, open_store
from recstill.data.snapshot import open_snapshot
from recstill.distillation.store import list_stores
from recstill.recipes.features import materialize_features
from recstill.recipes.packaging import package
from recstill.recipes.platform import Platform
from recstill.recipes.run import run_recipe
from recstill.recipes.stages import RunResult
from recstill.registry.versions import find_version, lineage_of
from recstill.serving.app import Service
from recstill.serving.decision_log import LogReader
from recstill.serving.request import ScoreRequest
from recstill.serving.scorer import Scorer

QUICK = (
    "seeds=[0]", "baselines=[]", "teacher.options={rounds: 30, anomaly: anomaly}", "student.training.epochs=3",
    "student.name=small-mlp", "student.options={dim: 4, hidden: [32, 16]}", "student.register_as=credit-network",
    "distil.mixed={copies: 0.5}",
)  # fmt: skip
APPLICANTS = [
    {"applicant_id": 29972, "age": 36, "education": "university"}, {"applicant_id": 17, "age": 24, "education": "other"},
]  # fmt: skip


@pytest.fixture(scope="module")
def network(finished: tuple[Platform, RunResult]) -> str:
    platform = finished[0]
    fetch(platform.catalog("datasets")["taiwan-credit"], platform.settings.cache)
    version = run_recipe(platform, "credit", QUICK).student
    materialize_features(platform, None, lambda _: None)
    return version


@pytest.fixture(scope="module")
def client(finished: tuple[Platform, RunResult], network: str, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    platform = finished[0]
    service = Service(package(platform, [network]) / "src" / "models", tmp_path_factory.mktemp("home") / "decisions")
    service.load(current_version(platform.settings.folder("online")))
    app = service.app()
    app.state.service = service
    return TestClient(app)


def test_rows_mixed_from_others_teach_and_are_in_the_snapshot(finished: tuple[Platform, RunResult], network: str) -> None:
    platform = finished[0]
    with platform.registry.transaction() as session:
        version = find_version(session, network)
        snapshot_id = next(row.value for row in lineage_of(session, version) if row.relation == "snapshot")
    snapshot = open_snapshot(snapshot_id, platform.settings.folder("snapshots"))
    assert len(snapshot.rows_of("mixed")) == round(0.5 * len(snapshot.rows_of("train")))
    stores = [store for store in list_stores(platform.settings.folder("signals")) if store.key.snapshot == snapshot_id]
    scored = sum(part["rows"] for part in stores[0].card["parts"].values())
    assert scored == sum(len(snapshot.rows_of(split)) for split in ("train", "valid", "mixed"))


def test_a_decision_that_cannot_be_logged_is_not_made(client: TestClient) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    asked = {"applicants": APPLICANTS}
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))  # no file may grow beyond: as on a full disk
    try:
        answers = [client.post("/v1/risk/score", json=asked) for _ in range(8)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    statuses = [answer.status_code for answer in answers]
    assert sorted(set(statuses)) == [200, 503]
    assert "could not be logged, so none was made" in answers[-1].json()["error"]
    answered = {
        answer.json()["request"] for answer in [*answers, client.post("/v1/risk/score", json=asked)] if answer.is_success
    }
    service = client.app.state.service
    reader = LogReader(service.log.folder)
    assert {one["request"] for one in reader.decisions()} == answered
    assert reader.problems == []


def test_a_network_says_what_moved_its_score(client: TestClient) -> None:
    asked = {"applicants": APPLICANTS, "explain": True}
    body = client.post("/v1/risk/score", json=asked).json()
    assert body["explained_by"] == "integrated-gradients"
    reasons = body["decisions"][0]["reasons"]
    effects = [abs(reason["effect"]) for reason in reasons]
    assert len(effects) == 4
    assert effects == sorted(effects, reverse=True)
    assert effects[0] > 0
    assert all(reason["direction"] == ("up" if reason["effect"] > 0 else "down") for reason in reasons)
    assert client.post("/v1/risk/score", json=asked).json()["decisions"] == body["decisions"]
    plain = client.post("/v1/risk/score", json={"applicants": APPLICANTS}).json()
    assert "reasons" not in plain["decisions"][0]
    assert "explained_by" not in plain
    assert [one["score"] for one in plain["decisions"]] == [one["score"] for one in body["decisions"]]


def test_the_effects_of_all_features_add_up_to_the_score(finished: tuple[Platform, RunResult], network: str) -> None:
    platform = finished[0]
    with platform.registry.transaction() as session:
        version = find_version(session, network)
    assert version.metrics["explain.max_residual"] < 0.05
    folder = platform.artifacts.get(version.artifact)
    scorer = Scorer(network, Path(folder), open_store(current_version(platform.settings.folder("online"))))
    ids = np.array([29972, 17, 1, 2])
    rows = {"age": np.array([36.0, 24, 50, 61]), "education": np.array(["university", "other", "school", "school"], object)}
    scored = scorer.score(ScoreRequest(None, ids, {}, rows, explain=True))
    assert scored.terms is not None
    assert scored.terms.shape == (4, len(scorer.manifest.attributed))
    logits = np.log(scored.scores["default"] / (1 - scored.scores["default"]))
    assert np.abs(scored.terms.sum(1) + scorer.manifest.attributed_from - logits).max() < 0.05
    assert scorer.score(ScoreRequest(None, ids, {}, rows)).terms is None


def test_a_reason_says_the_value_that_it_speaks_of(client: TestClient) -> None:
    asked = {"applicants": [{**APPLICANTS[0], "education": None}], "explain": True}
    service = client.app.state.service
    decision = service.scorers["credit"].task.decision
    every = decision.model_copy(update={"reasons": 100})
    scorer = service.scorers["credit"]
    object.__setattr__(scorer.manifest, "task", scorer.task.model_copy(update={"decision": every}))
    reasons = {
        one["feature"]: one["text"] for one in client.post("/v1/risk/score", json=asked).json()["decisions"][0]["reasons"]
    }
    object.__setattr__(scorer.manifest, "task", scorer.task)
    assert reasons["age"].startswith("Age (36) ")
    assert reasons["education"].startswith("Education (missing) ")
    snapshot_value = [text for name, text in reasons.items() if name == "credit_limit"]
    assert "(" in snapshot_value[0], "a value of the feature store"


def test_an_applicant_of_whom_nothing_is_known_is_degraded_and_said(client: TestClient) -> None:
    asked = {"applicants": [{"applicant_id": 10**9}, {"applicant_id": 17, "age": 24}]}
    body = client.post("/v1/risk/score", json=asked).json()
    assert body["degraded"] is True
    assert body["decisions"][0]["remarks"] == ["nothing is known of it: the score is that of missing values"]
    assert body["decisions"][1]["remarks"] == ["education is missing, which no training row lacked"]


def test_a_task_may_refuse_an_applicant_of_whom_nothing_is_known(client: TestClient) -> None:
    scorer = client.app.state.service.scorers["credit"]
    task = scorer.task
    scorer.task = task.model_copy(update={"endpoint": task.endpoint.model_copy(update={"nothing_known": "refuse"})})
    try:
        answer = client.post("/v1/risk/score", json={"applicants": [{"applicant_id": 17}, {"applicant_id": 10**9}]})
    finally:
        scorer.task = task
    assert answer.status_code == 422
    assert answer.json()["error"] == "applicants[1]: nothing is known of it; give at least one of age, education."
