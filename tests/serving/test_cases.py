"""Ads, search and risk from one server: three requests that look nothing like each other, and what they refuse."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from recstill.api import ConfigError, DataError, IntegrityError, RegistryError, RowsError
from recstill.cli import cli
from recstill.data.bundle import open_bundle
from recstill.data.fetch import fetch
from recstill.data.packed import current_version, open_store
from recstill.recipes.data import make_snapshot
from recstill.recipes.demo import free_port
from recstill.recipes.features import materialize_features
from recstill.recipes.packaging import package
from recstill.recipes.platform import Platform
from recstill.recipes.release import judge
from recstill.recipes.reviews import decide_review, queue_reviews, reviewed_labels, verify_logs, with_reviews
from recstill.recipes.run import run_recipe
from recstill.recipes.serving import running_server
from recstill.recipes.stages import RunResult
from recstill.registry.reviews import list_reviews
from recstill.registry.versions import find_version
from recstill.serving.app import Service
from recstill.serving.scorer import Scorer
from recstill_text.tiny import write_tiny_model

CREDIT, SEARCH, RANK = "/v1/risk/score", "/v1/search/score", "/v1/search/rank"
CREDIT_QUICK = (
    "seeds=[0]", "baselines=[]", "teacher.options={rounds: 30, anomaly: anomaly}", "student.training.epochs=4",
)  # fmt: skip
SEARCH_QUICK = (
    "seeds=[0]", "data={requests: 120, candidates: 6}", "student.training.epochs=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def cases(finished: tuple[Platform, RunResult], tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunResult]:
    """A run of each case, in the home where the ads run lies."""
    platform, ads = finished
    fetch(platform.catalog("datasets")["taiwan-credit"], platform.settings.cache)
    tiny = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    text = [*SEARCH_QUICK, f"teacher.options={{model: {tiny}, epochs: 1, batch_size: 64, max_tokens: 24, threads: 1}}"]
    found = {
        "ads": ads,
        "credit": run_recipe(platform, "credit", CREDIT_QUICK),
        "search": run_recipe(platform, "search", [*text, "baselines=[bm25, tf-idf]"]),
        "search-rank": run_recipe(platform, "search-rank", text),
    }
    materialize_features(platform, None, lambda _: None)
    return found


@pytest.fixture(scope="module")
def client(
    finished: tuple[Platform, RunResult], cases: dict[str, RunResult], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    platform, log = finished[0], tmp_path_factory.mktemp("log") / "server.log"
    bento = package(platform, [run.student for run in cases.values()])
    with running_server(platform, bento, free_port(), log) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client


def applicants(**changes: object) -> dict[str, object]:
    one = {"applicant_id": 29972, "age": 36, "education": "university"}
    return {"applicants": [{**one, **changes}, {"applicant_id": 17, "age": 24, "education": "other"}], "explain": True}


def test_one_server_answers_ads_search_and_risk(client: httpx.Client, cases: dict[str, RunResult]) -> None:
    served = {row["task"]: row["model_version"] for row in client.get("/v1/models").json()}
    assert served == {task: run.student for task, run in cases.items()}
    ads = client.post("/v1/ads/score", json={"household_id": 1, "product_ids": [819063, 1029743], "context": {"store_id": 436}})
    assert ads.status_code == 200
    assert set(client.get("/openapi.json").json()["paths"]) >= {"/v1/ads/score", CREDIT, SEARCH, RANK}


def test_a_credit_answer_has_a_decision_and_its_reasons(client: httpx.Client, cases: dict[str, RunResult]) -> None:
    body = client.post(CREDIT, json=applicants()).json()
    assert body["model_version"] == cases["credit"].student
    assert body["degraded"] is False
    first = body["decisions"][0]
    assert 0 < first["score"] < 1
    assert first["band"] in "ABCDE"
    assert first["decision"] in ("approve", "review", "decline")
    assert isinstance(first["anomaly"], float)
    effects = [abs(reason["effect"]) for reason in first["reasons"]]
    assert len(effects) == 4
    assert effects == sorted(effects, reverse=True)
    assert all(reason["direction"] == ("up" if reason["effect"] > 0 else "down") for reason in first["reasons"])
    assert first["reasons"][0]["text"].endswith(" the score.")
    again = client.post(CREDIT, json=applicants()).json()
    assert again["decisions"] == body["decisions"]
    plain = client.post(CREDIT, json={"applicants": [{"applicant_id": 17, "age": 24, "education": "other"}]}).json()
    assert "reasons" not in plain["decisions"][0]
    assert plain["decisions"][0]["score"] == body["decisions"][1]["score"]


def test_the_served_score_is_the_models_own(
    client: httpx.Client, finished: tuple[Platform, RunResult], cases: dict[str, RunResult]
) -> None:
    from recstill.recipes.loading import load_recipe
    from recstill.recipes.progress import Progress
    from recstill.recipes.run import prepare_run
    from recstill.training.loop import predict

    platform = finished[0]
    run = prepare_run(platform, *load_recipe(platform, "credit", CREDIT_QUICK), Progress())
    rows = run.snapshot.rows_of("test")[:40]
    columns = run.snapshot.columns(["applicant_id", "age", "education"], rows)
    sent = [
        {"applicant_id": int(i), "age": float(a), "education": e}
        for i, a, e in zip(columns["applicant_id"], columns["age"], columns["education"], strict=True)
    ]
    answered = client.post(CREDIT, json={"applicants": sent}).json()["decisions"]
    with platform.registry.transaction() as session:
        trained = find_version(session, cases["credit"].student).run_id
    from recstill.recipes.training import load_trained

    model = load_trained(replace(run, id=trained), "distilled-0", "student")
    logits = predict(model, run.rows.tensors("student", "test"))["default"][:40].numpy()
    assert np.abs(np.array([row["score"] for row in answered]) - 1 / (1 + np.exp(-logits))).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"age": "old"}, "applicants[0].age must be a finite number, not 'old'"),
        ({"age": True}, "must be a finite number"),
        ({"age": 1e31}, "must be a finite number"),
        ({"education": ["a"]}, "applicants[0].education must be a string or an integer"),
        ({"income": 3}, "applicants[0]: unknown field 'income'; allowed: applicant_id, age, education"),
        ({"applicant_id": None}, "applicants[0] must be an id, not None"),
    ],
)
def test_what_an_applicant_cannot_be_is_refused_by_name(client: httpx.Client, changes: dict, words: str) -> None:
    answer = client.post(CREDIT, json=applicants(**changes))
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_values_that_training_never_saw_are_scored_and_said(client: httpx.Client) -> None:
    body = client.post(CREDIT, json=applicants(age=300, education="circus school")).json()
    remarks = body["decisions"][0]["remarks"]
    assert "age is outside of 21 to 75, the values seen in training" in remarks
    assert "education has a value that training never saw, or hardly ever" in remarks
    assert body["decisions"][1].get("remarks") is None
    unknown = client.post(CREDIT, json=applicants(applicant_id=10**9, age=None)).json()
    assert unknown["unknown"]["applicants"] == [10**9]
    assert unknown["degraded"] is True


def test_search_scores_products_for_a_query_with_or_without_a_user(client: httpx.Client) -> None:
    asked = {"product_ids": [819063, 1029743, 995242], "context": {"query": "white bread"}}
    anonymous = client.post(SEARCH, json=asked).json()
    assert sorted(row["product_id"] for row in anonymous["scores"]) == sorted(asked["product_ids"])
    assert all(0 <= row["relevance"] <= 1 for row in anonymous["scores"])
    assert anonymous["unknown"]["household_id"] is False
    with_user = client.post(SEARCH, json={**asked, "household_id": 1}).json()
    assert [row["product_id"] for row in with_user["scores"]] == [row["product_id"] for row in anonymous["scores"]]


@pytest.mark.parametrize("query", ["ice cream", "牛乳 アイス", "חלב טרי", "🙂🙂", "zzzz qqqq", "a" * 4_000, "‮evil", "x\x00y"])
def test_any_script_and_any_noise_is_scored(client: httpx.Client, query: str) -> None:
    for path, extra in ((SEARCH, {"product_ids": [819063]}), (RANK, {"k": 3})):
        answer = client.post(path, json={"context": {"query": query}, **extra})
        assert answer.status_code == 200, answer.text
        assert all(np.isfinite(row["relevance"]) for row in answer.json()["scores"])


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ({}, "'query' is needed and must not be empty"),
        ({"query": "   "}, "'query' is needed and must not be empty"),
        ({"query": "x" * 10_240}, "has 10240 bytes; at most 4096 are read"),
        ({"query": 7}, "must be of type str"),
    ],
)
def test_a_query_that_cannot_be_is_refused(client: httpx.Client, context: dict, words: str) -> None:
    for path in (SEARCH, RANK):
        answer = client.post(path, json={"context": context, **({"product_ids": [1]} if path == SEARCH else {})})
        assert answer.status_code == 422
        assert words in answer.json()["error"]


def test_item_vectors_come_with_the_bento_and_are_those_of_the_model(
    finished: tuple[Platform, RunResult], cases: dict[str, RunResult], tmp_path: Path
) -> None:
    platform, version = finished[0], cases["search-rank"].student
    online = current_version(platform.settings.folder("online"))
    models = package(platform, [version]) / "src" / "models"
    service = Service(models, tmp_path)
    card = service.cards["search-rank"]
    assert card["vectors_of"] == online.name
    service.load(online)
    found = service.scorers["search-rank"].index
    computed = Scorer(version, models / card["bundle"], open_store(online)).index
    assert np.array_equal(found.ids, computed.ids)
    assert np.array_equal(found.vectors, computed.vectors)
    (models / card["vectors"]).write_bytes((models / card["vectors"]).read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="was changed.*Package the version again"):
        Service(models, tmp_path).load(online)


def test_rank_gives_the_best_of_the_catalogue_that_pass_the_filters(client: httpx.Client) -> None:
    plain = client.post(RANK, json={"context": {"query": "ice cream"}, "k": 25}).json()["scores"]
    assert [row["rank"] for row in plain] == list(range(1, 26))
    values = [row["relevance"] for row in plain]
    assert values == sorted(values, reverse=True)
    wine = {"shelf_department": "GROCERY", "shelf_brand": ["Private"]}
    filtered = client.post(RANK, json={"context": {"query": "ice cream"}, "k": 25, "filters": wine}).json()["scores"]
    assert len({row["product_id"] for row in filtered}) == 25
    # The same products get the same score by either way, and the filter only takes others out.
    scores = {row["product_id"]: row["relevance"] for row in plain}
    assert all(abs(scores[row["product_id"]] - row["relevance"]) < 1e-6 for row in filtered if row["product_id"] in scores)
    assert max(row["relevance"] for row in filtered) <= values[0] + 1e-6


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"filters": {"colour": "red"}}, "Unknown filter 'colour'; known: shelf_department"),
        ({"filters": {"shelf_brand": "Nobody"}}, "No item has shelf_brand 'Nobody'"),
        ({"k": 0}, "'k' must be an integer from 1 to 1000"),
        ({"product_ids": [1]}, "Unknown field 'product_ids'"),
    ],
)
def test_a_rank_request_that_cannot_be_is_refused(client: httpx.Client, body: dict, words: str) -> None:
    answer = client.post(RANK, json={"context": {"query": "ice"}, **body})
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_decisions_are_logged_masked_and_verified(client: httpx.Client, finished: tuple[Platform, RunResult]) -> None:
    platform = finished[0]
    request = client.post(CREDIT, json=applicants()).json()["request"]
    folder = platform.settings.folder("decisions")
    path = max(folder.glob("*.jsonl"), key=lambda found: found.stat().st_mtime)
    assert b"29972" not in path.read_bytes()
    assert oct(path.stat().st_mode)[-3:] == oct((folder / "mask.key").stat().st_mode)[-3:] == "600"
    reader = verify_logs(platform)
    assert reader.problems == []
    logged = [one for one in reader.decisions() if one["request"] == request]
    assert len({one["subject"] for one in logged}) == len(logged) == 2
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    done = CliRunner().invoke(cli, ["reviews", "verify"])
    path.write_bytes(b"".join(lines))
    assert done.exit_code == 1
    assert f"{path.name} ends after line" in done.output
    assert CliRunner().invoke(cli, ["reviews", "verify"]).exit_code == 0


def test_reviews_are_queued_decided_once_and_become_labels(client: httpx.Client, finished: tuple[Platform, RunResult]) -> None:
    platform = finished[0]
    ids = list(range(1, 901))
    client.post(CREDIT, json={"applicants": [{"applicant_id": i, "age": 30, "education": "university"} for i in ids]})
    found, problems = queue_reviews(platform)
    assert problems == []
    assert found["new in the queue"] == found["for review"] > 0
    assert queue_reviews(platform)[0]["new in the queue"] == 0
    with platform.registry.transaction() as session:
        waiting = list_reviews(session, "credit", is_open=True)
    with pytest.raises(ConfigError, match="decides approve or decline, not 'perhaps'"):
        decide_review(platform, waiting[0].id, "perhaps", "")
    decide_review(platform, waiting[0].id, "decline", "no salary slip")
    with pytest.raises(RegistryError, match="Decisions are not changed"):
        decide_review(platform, waiting[0].id, "approve", "")
    task = platform.task("credit")
    labels = reviewed_labels(platform, task.spec, np.array(ids))
    assert list(labels.values()) == [1.0]
    subject = next(iter(labels))
    other = next(i for i in ids if i != subject)
    rows = pa.table({"applicant_id": [subject, subject, other], "default": pa.array([np.nan, 0.0, np.nan], pa.float32())})
    filled, count = with_reviews(platform, task.spec, rows)
    assert count == 1
    assert filled["default"].to_pylist()[:2] == [1.0, 0.0]  # a known outcome is not overruled
    assert np.isnan(filled["default"].to_pylist()[2])


def test_a_teacher_whose_scores_are_no_numbers_is_refused(
    finished: tuple[Platform, RunResult], cases: dict[str, RunResult], tmp_path: Path
) -> None:
    platform = finished[0]
    with platform.registry.transaction() as session:
        teacher = find_version(session, cases["credit"].teacher)
    text = (platform.artifacts.get(teacher.artifact) / "default.txt").read_text()
    lies = re.sub(r"(leaf_value=)\S+", r"\1nan", text, count=1)
    first = int(re.search(r"tree_sizes=(\d+)", lies)[1])  # a file that holds together, but for the value
    lies = lies.replace(f"tree_sizes={first}", f"tree_sizes={first - (len(text) - len(lies))}")
    (tmp_path / "lies.txt").write_text(lies)
    options = f"teacher.options={{anomaly: anomaly, files: {{default: {tmp_path / 'lies.txt'}}}}}"
    with pytest.raises(ConfigError, match="tree 0: leaf_value has something that is no finite number"):
        run_recipe(platform, "credit", [*CREDIT_QUICK, options])
    (tmp_path / "lies.txt").write_text("this is no model")
    with pytest.raises(ConfigError, match="is no LightGBM text model"):
        run_recipe(platform, "credit", [*CREDIT_QUICK, options])


def test_a_fold_of_one_class_and_a_missing_column_are_refused(finished: tuple[Platform, RunResult], tmp_path: Path) -> None:
    platform = finished[0]
    dataset = platform.catalog("datasets")["home-depot-relevance"]
    pq.write_table(pa.table({"search_term": ["a"], "product_title": ["b"], "product_uid": [1]}), tmp_path / "train.parquet")
    folder = fetch(dataset, platform.settings.cache, source=tmp_path)
    with pytest.raises(DataError, match="are not what task 'home-depot' reads: no column"):
        make_snapshot(platform, platform.task("home-depot"), {}, "none", lambda _: None)
    shutil.rmtree(folder)
    with pytest.raises(RowsError, match="the valid split has one class only of label 'default'"):
        run_recipe(platform, "credit", [*CREDIT_QUICK, "data.valid_share=0.00003"])


def test_the_student_knows_its_terms_and_the_gate_compares_the_groups(
    finished: tuple[Platform, RunResult], cases: dict[str, RunResult]
) -> None:
    platform, run = finished[0], cases["credit"]
    with platform.registry.transaction() as session:
        version = find_version(session, run.student)
    manifest = open_bundle(platform.artifacts.get(version.artifact))
    assert len(manifest.part_names) == len(manifest.part_means)
    assert "status_1" in manifest.part_names
    gates = judge(platform, run.student).gates
    assert "the teacher's" in gates["fairness"].reason
    assert {"fairness.woman.approval_gap", "bands.A.share", "score.psi"} <= set(version.metrics)
