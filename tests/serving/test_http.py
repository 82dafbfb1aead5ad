"""The real server, from a real bento, over HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from recstill.api import BundleError
from recstill.data.snapshot import Snapshot, open_snapshot
from recstill.recipes.demo import free_port
from recstill.recipes.packaging import package
from recstill.recipes.platform import Platform
from recstill.recipes.serving import running_server
from recstill.recipes.stages import RunResult

URL = "/v1/ads/score"


@pytest.fixture(scope="module")
def bento(finished: tuple[Platform, RunResult]) -> Path:
    return package(finished[0], [finished[1].student])


@pytest.fixture(scope="module")
def client(
    finished: tuple[Platform, RunResult], bento: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(finished[0], bento, free_port(), log) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture
def snapshot(platform: Platform) -> Snapshot:
    root = platform.settings.folder("snapshots")
    return open_snapshot(next(path.name for path in root.glob("ads-*")), root)


def test_a_request_is_answered_ranked(client: httpx.Client, snapshot: Snapshot, finished: tuple[Platform, RunResult]) -> None:
    columns = snapshot.columns(["household_id", "product_id", "store_id"], snapshot.rows_of("test"))
    household = int(columns["household_id"][0])
    products = [int(p) for p in columns["product_id"][columns["household_id"] == household][:20]]
    answer = client.post(
        URL, json={"household_id": household, "product_ids": products, "context": {"store_id": int(columns["store_id"][0])}}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert body["model_version"] == finished[1].student
    assert body["degraded"] is False
    assert body["unknown"] == {"household_id": False, "product_ids": []}
    assert sorted(row["product_id"] for row in body["scores"]) == sorted(products)
    assert [row["rank"] for row in body["scores"]] == list(range(1, len(products) + 1))
    chances = [row["purchase"] for row in body["scores"]]
    assert chances == sorted(chances, reverse=True)
    assert all(0 < row["purchase"] < 1 and 0 < row["promo_purchase"] < 1 and row["spend"] >= 0 for row in body["scores"])


def test_unknown_entities_are_scored_and_reported(client: httpx.Client) -> None:
    body = client.post(URL, json={"household_id": 99_999_999, "product_ids": [1, 2, 3]}).json()
    assert body["degraded"] is True
    assert body["unknown"] == {"household_id": True, "product_ids": [1, 2, 3]}
    assert body["unseen"] == {"household_id": True, "product_ids": [1, 2, 3]}
    assert body["missing_views"]["product_attributes"] == 3
    assert len(body["scores"]) == 3


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"household_id": 1, "product_ids": []}, 422, "empty"),
        ({"household_id": 1, "product_ids": list(range(10_001))}, 422, "10001 ids; at most 10000"),
        ({"household_id": 1}, 422, "must be a list"),
        ({"household_id": 1.5, "product_ids": [1]}, 422, "must be an integer, or a string of its digits"),
        ({"household_id": True, "product_ids": [1]}, 422, "must be an integer, or a string of its digits"),
        ({"household_id": None, "product_ids": [1]}, 422, "must be an id, not None"),
        ({"product_ids": [1]}, 422, "'household_id' must be"),
        ({"household_id": 1, "product_ids": [1, "two"]}, 422, "product_ids[1] must be an integer"),
        ({"household_id": 1, "product_ids": [1, None]}, 422, "product_ids[1] must be an id, not None"),
        ({"household_id": 1, "product_ids": [2**80]}, 4, "64 bits"),
        ({"household_id": 1, "product_ids": [1], "contxt": {}}, 422, "Unknown field 'contxt'"),
        ({"household_id": 1, "product_ids": [1], "context": {"stor": 1}}, 422, "Unknown context field 'stor'"),
        ({"household_id": 1, "product_ids": [1], "context": {"store_id": "x"}}, 422, "'store_id' must be an integer"),
        ({"household_id": 1, "product_ids": [1], "context": 5}, 422, "'context' must be an object"),
        ([1], 422, "must be a JSON object"),
    ],
)
def test_bad_requests_are_answered_with_the_reason(client: httpx.Client, body: object, status: int, words: str) -> None:
    answer = client.post(URL, json=body)
    assert answer.status_code == status or (status == 4 and answer.status_code in (400, 422))
    assert words in answer.json()["error"] or status == 4


def test_digits_in_a_string_are_the_integer_and_the_answer_names_ids_as_they_were_sent(client: httpx.Client) -> None:
    plain = client.post(URL, json={"household_id": 1, "product_ids": [1, 2]}).json()
    texts = client.post(URL, json={"household_id": "1", "product_ids": ["1", "2"]}).json()
    assert [row["purchase"] for row in texts["scores"]] == [row["purchase"] for row in plain["scores"]]
    assert [row["product_id"] for row in texts["scores"]] == [str(row["product_id"]) for row in plain["scores"]]
    assert texts["unknown"]["household_id"] == plain["unknown"]["household_id"]


def test_a_context_value_that_training_never_saw_is_named(client: httpx.Client) -> None:
    asked = {"household_id": 1, "product_ids": [1, 2]}
    without = client.post(URL, json=asked).json()
    assert "remarks" not in without
    new = client.post(URL, json={**asked, "context": {"store_id": -1}}).json()
    assert new["remarks"] == {"context": ["store_id has a value that training never saw, or hardly ever"]}


def test_broken_json_and_large_bodies_are_refused(client: httpx.Client) -> None:
    assert client.post(URL, content=b'{"household_id": ').status_code == 400
    large = client.post(URL, content=b"[" + b"1," * 2_500_000 + b"1]")
    assert large.status_code == 413
    assert "at most 1000000 bytes" in large.json()["error"]

    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b"1," * 50_000

    assert client.post(URL, content=chunks()).status_code == 413
    assert client.post(URL, json={"household_id": 1, "product_ids": [1]}).status_code == 200


def test_health_metrics_and_openapi(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    client.post(URL, json={"household_id": 1, "product_ids": [1]})
    metrics = client.get("/metrics").text
    for name in (
        "recstill_request_duration_seconds_bucket",
        "recstill_unknown_entities_total",
        "recstill_model_info",
        "recstill_requests_total",
    ):
        assert name in metrics
    assert 'le="0.0005"' in metrics
    schema = client.get("/openapi.json").json()
    assert schema["paths"][URL]["post"]["requestBody"]["required"] is True
    assert client.get("/v1/models").json()[0]["task"] == "ads"
    assert client.get(URL).status_code == 405


def test_the_bento_holds_no_pickle_and_pins_what_it_needs(bento: Path) -> None:
    names = [path.name for path in (bento / "src").rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    lines = (bento / "src" / "requirements.txt").read_text().split()
    assert all("==" in line or line.startswith("./wheels/") for line in lines)
    assert not [line for line in lines if line.startswith(("torch", "feast", "recstill-"))]


def test_a_teacher_is_not_packaged(finished: tuple[Platform, RunResult], platform: Platform) -> None:
    with pytest.raises(BundleError, match="only students are packaged"):
        package(platform, [finished[1].teacher])


def test_a_bento_carries_the_features_that_its_versions_read_and_no_other(platform: Platform, bento: Path) -> None:
    from recstill.recipes.packaging import served_versions

    [card] = served_versions(bento)
    manifest = json.loads((bento / "src" / "models" / card["bundle"] / "manifest.json").read_text())
    read = {view["name"] for view in manifest["features"]["views"]}
    online = bento / "src" / "online"
    assert set(json.loads((online / "online.json").read_text())["views"]) == read
    assert {path.name for path in online.iterdir()} == {"online.json", *read}
    everything = platform.settings.home / "online"
    current = everything / json.loads((everything / "current.json").read_text())["version"]
    assert read < {path.name for path in current.iterdir()}, "this home holds more than the model reads"


def test_the_same_row_from_the_snapshot_and_over_http_differs_by_less_than_1e_5(
    finished: tuple[Platform, RunResult], platform: Platform, bento: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    """Features are materialized as of the last test week, so that both paths see the same moment."""
    from datetime import UTC, datetime

    from recstill.features.online import materialize
    from recstill.recipes.features import open_store
    from recstill.recipes.serving import serve_command, serve_environment
    from recstill.serving.scorer import Graph

    test = snapshot.rows_of("test")
    stamps = snapshot.table(["event_timestamp"])["event_timestamp"].to_pylist()
    moment = max(stamps[row] for row in test)
    rows = np.array([row for row in test if stamps[row] == moment])
    packed = materialize(
        open_store(platform),
        tmp_path / "online",
        moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC),
        lambda _: None,
    )
    assert isinstance(moment, datetime)

    with platform.registry.transaction() as session:
        from recstill.registry.versions import find_version

        folder = platform.artifacts.get(find_version(session, finished[1].student).artifact)
    graph = Graph(folder)
    sides, transform = graph.manifest.sides, graph.transform
    names = [f.name for f in transform.features]
    columns = snapshot.columns(names, rows)
    import subprocess
    import time

    port = free_port()
    environment = {**serve_environment(platform, bento, 1), "RECSTILL_ONLINE": str(packed.folder)}
    process = subprocess.Popen(
        serve_command(bento, "127.0.0.1", port), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        worst, compared = 0.0, 0
        for household in np.unique(columns["household_id"])[:40]:
            places = np.flatnonzero(columns["household_id"] == household)
            part = {name: values[places] for name, values in columns.items()}
            items = [transform.encode(part, group) for group in sides.items]
            query = transform.encode({name: values[:1] for name, values in part.items()}, sides.query)
            from recstill.data.transform import Encoded

            together = Encoded(np.concatenate([i.dense for i in items], 1), np.concatenate([i.ids for i in items], 1))
            expected = graph.run(query, together)
            body = {
                "household_id": int(household),
                "product_ids": [int(p) for p in part["product_id"]],
                "context": {"store_id": int(part["store_id"][0])},
            }
            answer = httpx.post(f"http://127.0.0.1:{port}{URL}", json=body, timeout=30).json()
            served = {row["product_id"]: row for row in answer["scores"]}
            for label, values in expected.items():
                for product, value in zip(body["product_ids"], values.tolist(), strict=True):
                    worst = max(worst, abs(served[product][label] - value))
                    compared += 1
    finally:
        process.terminate()
        process.wait(30)
    assert compared > 500
    assert worst < 1e-5, json.dumps({"worst": worst, "compared": compared})
