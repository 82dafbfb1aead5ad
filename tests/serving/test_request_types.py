"""What a row brings over HTTP is what its training row was: every type, through the real application, in this process."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from starlette.testclient import TestClient

from recstill.api.task import ContextSpec, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec
from recstill.data.arrow import logical_type, typed_columns
from recstill.data.bundle import write_manifest
from recstill.data.files import write_json
from recstill.data.packed import write_view
from recstill.data.sides import split_sides
from recstill.data.transform import Encoded, Transform
from recstill.embeddings.tables import export_inputs
from recstill.export.graph import Layout, export_graph
from recstill.serving.app import Service
from recstill_rankers.mlp import SmallMLP

NUM_ROWS = 24
BIG = 2**53 + 1
PAIR = ["user", "item", "visits"]
CATEGORIES = ("int", "unsigned", "flag", "text", "amount", "day", "moment")
FEATURES = (
    *(FeatureSpec(name=name, view="row", kind="categorical", min_count=1, oov_buckets=1) for name in CATEGORIES),
    *(FeatureSpec(name=name, view="row") for name in ("number", "whole", "share", "yes")),
    FeatureSpec(name="tags", view="row", kind="sequence", length=3, min_count=1),
    FeatureSpec(name="shop", view="items_view", kind="categorical", min_count=1),
    FeatureSpec(name="basket", view="items_view", kind="sequence", length=3, min_count=1),
    FeatureSpec(name="price", view="items_view"),
    FeatureSpec(name="visits", view="pairs_view"),
    FeatureSpec(name="history", view="context", kind="sequence", length=4, min_count=1),
    FeatureSpec(name="user", view="key", kind="categorical", min_count=1),
)
TASK = TaskSpec(
    name="types", dataset="none", description="every type", labels=(LabelSpec(name="y", primary=True),), features=FEATURES,
    groups=("user",),
    endpoint=EndpointSpec(
        path="/v1/types/score", query_key="user", item_key="item", items_field="items", query_optional=True,
        context=(ContextSpec(name="history", dtype="ints"),),
    ),
)  # fmt: skip


def rows() -> pa.Table:
    """Rows of one user each, with nulls, extremes, empty and unusual texts."""
    places, day = np.arange(NUM_ROWS), dt.date(2024, 2, 28)
    moments = [dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=int(n % 7)) for n in places]
    columns = {
        "int": pa.array([[BIG, BIG + 1, -(2**63), 2**63 - 1, None, 0][n % 6] for n in places], pa.int64()),
        "unsigned": pa.array([[2**63 + 5, 5, None, 2**64 - 1][n % 4] for n in places], pa.uint64()),
        "flag": pa.array([[True, False, None][n % 3] for n in places]),
        "text": pa.array([["", "ü\u200b☃ ", None, "1", "True", "a\x00"][n % 6] for n in places]),
        "amount": pa.array([[decimal.Decimal("1.50"), decimal.Decimal(3), None][n % 3] for n in places], pa.decimal128(20, 2)),
        "day": pa.array([[day, day + dt.timedelta(days=1), None][n % 3] for n in places]),
        "moment": pa.array([None if n % 5 == 0 else moments[n] for n in places], pa.timestamp("ns", "Europe/Berlin")),
        "number": pa.array([None if n % 5 == 0 else n / 7 for n in places], pa.float64()),
        "whole": pa.array([None if n % 4 == 0 else int(n) for n in places], pa.int32()),
        "tags": pa.array([None if n % 5 == 0 else [BIG + n % 2, n % 3, BIG][: n % 4] for n in places], pa.list_(pa.int64())),
        "share": pa.array([decimal.Decimal(int(n)) / 4 for n in places], pa.decimal128(9, 2)),
        "yes": pa.array([None if n % 6 == 0 else bool(n % 2) for n in places]),
        "user": pa.array([BIG + n for n in places], pa.int64()),
        "item": pa.array([f"i{n}" for n in places]),
        "history": pa.array([[BIG, n, BIG + 1][: n % 4] for n in places], pa.list_(pa.int64())),
        "shop": pa.array([None if n % 5 == 0 else BIG + int(n % 3) for n in places], pa.int64()),
        "basket": pa.array([None if n % 5 == 0 else [f"p{n % 3}", ""][: n % 3] for n in places], pa.list_(pa.string())),
        "visits": pa.array([n % 5 for n in places], pa.int64()),
        "price": pa.array([None if n % 7 == 0 else 0.25 * n for n in places], pa.float64()),
    }
    return pa.table(columns)


@dataclass(frozen=True)
class Served:
    """The rows, the application that serves them, and the scores that the graph gives the encoded rows."""

    table: pa.Table
    client: TestClient
    expected: list[float]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, table = tmp_path_factory.mktemp("served"), rows()
    columns = typed_columns(table)
    transform = Transform.fit(FEATURES, columns)
    sides = split_sides(FEATURES, {"items_view": ("item",), "pairs_view": ("user", "item")}, TASK.endpoint)
    (query_dense, item_dense), (query_slots, item_slots) = sides.dense_places(transform), sides.slot_places(transform)
    torch.manual_seed(0)
    inputs = export_inputs(transform.num_dense, transform.slots, TASK.labels)
    bundle = folder / "models" / "student"
    bundle.mkdir(parents=True)
    layout = Layout(query_dense, query_slots, item_dense, item_slots)
    model = SmallMLP(inputs, dim=4, hidden=[8])
    export_graph(model, layout, TASK.labels, bundle)
    transform.save(bundle)
    of_items = {"shop": "Int64", "basket": "Array(String)", "price": "Float64"}
    view = {
        "name": "items_view", "join_keys": ["item"], "features": of_items, "availability": "request", "owner": "",
        "freshness": "", "key_types": {"item": "String"},
    }  # fmt: skip
    pairs = {**view, "name": "pairs_view", "join_keys": ["user", "item"], "features": {"visits": "Int64"}}
    pairs["key_types"] = {"user": "Int64", "item": "String"}
    write_manifest(bundle, {
        "task": TASK, "role": "student", "model": "small-mlp", "plugin": "p", "options": {}, "run": "r", "seed": 0,
        "snapshot": "s", "feature_service": "f", "fingerprint": "", "features": {"views": [view, pairs]}, "sides": sides,
        "key_types": {key: logical_type(table.schema.field(key).type) for key in ("user", "item")}, "num_parameters": 1,
        "packages": {},
    })  # fmt: skip
    write_json(folder / "models" / "models.json", [{"task": "types", "bundle": "student", "version": "types:1"}])
    online = folder / "online" / "1"
    card = write_view(online, "items_view", ["item"], {name: columns[name] for name in ("item", *view["features"])})
    together = pa.concat_tables([table.select(PAIR), pa.table({"user": [BIG + 1], "item": ["met"], "visits": [3]})])
    met = write_view(online, "pairs_view", ["user", "item"], typed_columns(together))
    cards = {"items_view": {**card, "features": view["features"]}, "pairs_view": {**met, "features": pairs["features"]}}
    write_json(online / "online.json", {"version": "1", "as_of": "", "views": cards})
    service = Service(folder / "models", folder / "decisions")
    service.load(online)
    with TestClient(service.app()) as client:
        yield Served(table, client, _expected(service, transform.encode(columns), layout))


def _expected(service: Service, encoded: Encoded, layout: Layout) -> list[float]:
    graph = service.scorers["types"].graph
    found = []
    for row in range(len(encoded)):
        query = Encoded(encoded.dense[[row]][:, layout.query_dense], encoded.ids[[row]][:, layout.query_slots])
        items = Encoded(encoded.dense[[row]][:, layout.item_dense], encoded.ids[[row]][:, layout.item_slots])
        found.append(float(graph.run(query, items)["y"][0]))
    return found


def as_json(value: Any) -> Any:
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value


def body_of(table: pa.Table, row: int) -> dict[str, Any]:
    values = {name: as_json(table[name][row].as_py()) for name in table.column_names}
    values["share"] = float(values["share"])
    item = {"item": values["item"], **{feature.name: values[feature.name] for feature in FEATURES if feature.view == "row"}}
    return {"user": values["user"], "items": [item], "context": {"history": values["history"]}}


def test_every_row_is_scored_over_http_as_it_was_encoded_for_training(served: Served) -> None:
    assert len(set(served.expected)) > NUM_ROWS // 2
    for row in range(NUM_ROWS):
        answer = served.client.post("/v1/types/score", json=body_of(served.table, row))
        assert answer.status_code == 200, answer.text
        assert answer.json()["scores"][0]["y"] == pytest.approx(served.expected[row], abs=1e-6), f"row {row}"
        assert "remarks" not in answer.json()


def test_an_empty_text_is_missing_as_it_was_in_training(served: Served) -> None:
    body = body_of(served.table, 1)
    answers = []
    for value in (None, ""):
        body["items"][0]["text"] = value
        answers.append(served.client.post("/v1/types/score", json=body).json())
    assert answers[0] == answers[1]
    assert "remarks" not in answers[0]


def test_an_item_that_the_user_has_a_row_with_is_not_unknown(served: Served) -> None:
    """It is in no view of items, and the request says nothing of it."""
    nothing = "nothing is known of it: the score is that of missing values"
    for user, expected in ((BIG + 1, False), (BIG + 2, True)):
        answer = served.client.post("/v1/types/score", json={"user": user, "items": [{"item": "met"}]}).json()
        assert (nothing in answer["remarks"]["met"]) is expected


def test_lists_of_items_are_read_item_by_item(served: Served) -> None:
    body = body_of(served.table, 7)
    other = {**body["items"][0], "item": "i8", "tags": [77]}
    answer = served.client.post("/v1/types/score", json={**body, "items": [{**other, "tags": None}, other, body["items"][0]]})
    assert answer.json()["remarks"] == {"i8": ["tags has values that training never saw, or hardly ever"]}
    scores = {row["item"]: row["y"] for row in answer.json()["scores"] if row["item"] == "i7"}
    assert scores["i7"] == pytest.approx(served.expected[7], abs=1e-6)


def test_digits_in_strings_are_the_same_integers(served: Served) -> None:
    body = body_of(served.table, 1)
    texts = {**body, "user": str(body["user"]), "items": [{**body["items"][0], "int": str(body["items"][0]["int"])}]}
    answers = [served.client.post("/v1/types/score", json=one).json() for one in (body, texts)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("int", "x", "items[0].int must be an integer"), ("flag", "yes", "items[0].flag must be true or false"),
        ("unsigned", 1.5, "items[0].unsigned must be an integer"), ("day", "2024-02-30", "items[0].day must be a date"),
        ("moment", 5, "items[0].moment must be a moment"), ("amount", "much", "items[0].amount must be a number"),
        ("number", "1.5", "items[0].number must be a finite number"), ("amount", "1_5", "items[0].amount must be a number"),
        ("amount", "\uff11.5", "items[0].amount must be a number"), ("tags", 5, "items[0].tags must be a list of values"),
        ("tags", [None], "items[0].tags must be a list of values"), ("tags", ["a"], "items[0].tags[0] must be an integer"),
        ("moment", "9999-12-31T23:59:59-01:00", "items[0].moment must be a moment"),
        ("moment", "0001-01-01T00:00:00+01:00", "items[0].moment must be a moment"),
        ("moment", "2024-01-01T00:01:00.000000001Z", "items[0].moment must be a moment"),
        ("text", "x" * 600, "has 600 bytes; at most 512"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_name(served: Served, field: str, value: Any, words: str) -> None:
    body = body_of(served.table, 1)
    body["items"][0][field] = value
    answer = served.client.post("/v1/types/score", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (422, True), answer.text


def test_new_values_are_named_and_a_missing_user_is_no_other_user(served: Served) -> None:
    body = body_of(served.table, 1)
    body["items"][0]["int"] = 77
    body["context"]["history"] = [77]
    remarks = served.client.post("/v1/types/score", json=body).json()["remarks"]
    assert remarks["i1"] == ["int has a value that training never saw, or hardly ever"]
    assert remarks["context"] == ["history has values that training never saw, or hardly ever"]
    nobody = served.client.post("/v1/types/score", json={**body, "user": None}).json()
    assert nobody["unseen"]["user"] is False
    assert served.client.post("/v1/types/score", json={**body, "user": ""}).status_code == 422
