"""Catalogue search over complete-journey. Queries and grades come from the category tree: nobody typed or judged them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from recstill.api import ContextSpec, DataError, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_QUERY = ContextSpec(name="query", dtype="str", description="what was typed", required=True)
_HOUSEHOLD = (
    "hh_weeks_since", "hh_baskets_4w", "hh_baskets_12w", "hh_spend_4w", "hh_spend_12w", "hh_items_12w", "hh_discount_share",
    "hh_item_price",
)  # fmt: skip
FEATURES = (
    FeatureSpec(name="query", view="context", kind="text", buckets=5_000, length=48),
    FeatureSpec(name="title", view="product_text", kind="text", buckets=10_000, length=64),
    FeatureSpec(name="query_title", view="match", kind="match", of=("query", "title"), buckets=30_000, length=96),
    *(FeatureSpec(name=name, view="household_history") for name in _HOUSEHOLD),
    *(
        FeatureSpec(name=f"favourite_{n}", view="household_favourites", kind="categorical", table="department")
        for n in (1, 2, 3)
    ),
)
WEEKS = {"train": range(40, 49), "valid": range(49, 50), "test": range(50, 53)}


class SearchOptions(BaseModel):
    """How many requests, how many candidates for each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = Field(3_000, ge=50, description="searches of the training weeks; half as many of each week later on")
    candidates: int = Field(12, ge=4, le=100)
    seed: int = 7


class SearchTask:
    """A row is (household, query, product, week). The query is made of the product type or the category of something that the
    household bought in the week. relevance: 1 for the same type (of a category query: the same category), 2/3 for the same
    category, 1/3 for the same department, 0 for anything else. bought: the household bought this very product in the week."""

    options = SearchOptions

    def __init__(self, name: str = "search", path: str = "/v1/search/score", *, catalogue: bool = False) -> None:
        self.spec = TaskSpec(
            name=name,
            dataset="complete-journey",
            description="catalogue search: how well a product answers a query, on grades derived from the category tree",
            labels=(
                LabelSpec(name="relevance", primary=True, graded=True, description="nearness in the category tree"),
                LabelSpec(name="bought", weight=0.2, description="bought by the household in the week"),
            ),
            features=FEATURES,
            groups=("request_id",),
            slices=("query_frequency", "query_words"),
            endpoint=EndpointSpec(
                path=path,
                query_key="household_id",
                query_optional=True,
                item_key="product_id",
                items_field="product_ids",
                max_items=1_000,
                context=(_QUERY,),
                catalogue=catalogue,
                filters=("shelf_department", "shelf_category", "shelf_brand") if catalogue else (),
            ),
            default_recipe=name,
            case="search",
        )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """Requests drawn from purchases, with products near and far in the tree as candidates."""
        assert isinstance(options, SearchOptions)
        bought, products = _read(raw)
        random = np.random.default_rng(options.seed)
        week, household, product = bought["week"], bought["household_id"], bought["place"]
        parts = []
        for split, weeks in WEEKS.items():
            here = np.flatnonzero(np.isin(week, np.array(weeks)))
            if not len(here):
                raise DataError(f"No purchase in the weeks of the {split} split, {weeks.start} to {weeks.stop - 1}.")
            count = options.requests if split == "train" else options.requests // 2
            picked = random.choice(here, min(count, len(here)), replace=False)
            parts.append((split, picked))
        requests = np.concatenate([picked for _, picked in parts])
        split = np.repeat([name for name, _ in parts], [len(picked) for _, picked in parts]).astype(object)
        texts, by_category = _queries(products, product[requests], random)
        candidates = [_candidates(products, place, options.candidates, random) for place in product[requests]]
        sizes = np.array([len(found) for found in candidates])
        at, item = np.repeat(np.arange(len(requests)), sizes), np.concatenate(candidates)
        owned = set(zip(household.tolist(), week.tolist(), product.tolist(), strict=True))
        asked = list(zip(household[requests][at].tolist(), week[requests][at].tolist(), item.tolist(), strict=True))
        frequency, words = _slices(texts, split)
        order = np.lexsort((item, at, week[requests][at]))
        moment = bought["moment"][requests].astype("datetime64[us]")
        columns = {
            "household_id": household[requests][at],
            "product_id": products["product_id"][item],
            "query": texts[at],
            "request_id": at.astype(np.int64),
            "relevance": _grades(products, product[requests][at], item, by_category[at]),
            "bought": np.array([key in owned for key in asked], np.float32),
            "query_frequency": frequency[at],
            "query_words": words[at],
            "split": split[at],
            "week": week[requests][at],
            "sampling_rate": np.ones(len(at), np.float32),
        }
        table = {name: values[order] for name, values in columns.items()}
        table["event_timestamp"] = pa.array(moment[at][order]).cast(pa.timestamp("us", "UTC"))
        return pa.table(table)

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """There are none."""


def _read(raw: Path) -> tuple[dict[str, NDArray], dict[str, NDArray]]:  # type: ignore[type-arg]
    """Return purchases (household, week, moment, place of the product) and products, all as columns."""
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    products = connection.execute(
        """select product_id, department, product_category category, product_type from read_parquet($1)
           where product_type is not null and product_category is not null and department is not null order by product_id""",
        [str(raw / "products.parquet")],
    ).fetchnumpy()
    found = {name: np.asarray(values) for name, values in products.items()}
    for name in ("department", "category", "product_type"):
        found[f"{name}_code"] = np.unique(found[name].astype(str), return_inverse=True)[1]
    bought = connection.execute(
        """select household_id, product_id, week, min(transaction_timestamp)::timestamp moment from read_parquet($1)
           where week between 40 and 52 group by household_id, product_id, week order by week, household_id, product_id""",
        [str(raw / "transactions.parquet")],
    ).fetchnumpy()
    place = np.minimum(np.searchsorted(found["product_id"], bought["product_id"]), len(found["product_id"]) - 1)
    known = found["product_id"][place] == bought["product_id"]
    purchases = {name: np.asarray(values)[known] for name, values in bought.items()} | {"place": place[known]}
    return purchases, found


def _queries(
    products: dict[str, NDArray],
    places: NDArray[np.int64],
    random: np.random.Generator,  # type: ignore[type-arg]
) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Return a query for each product, and whether it asks for the category; a word of three or more is sometimes left out."""
    by_category = random.random(len(places)) < 0.35
    texts = []
    for place, wide in zip(places.tolist(), by_category.tolist(), strict=True):
        words = re.findall(r"[a-z0-9]+", str(products["category" if wide else "product_type"][place]).lower())
        if len(words) >= 3 and random.random() < 0.5:
            words.pop(int(random.integers(len(words))))
        texts.append(" ".join(words) or "groceries")
    return np.array(texts, dtype=object), by_category


def _candidates(products: dict[str, NDArray], place: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:  # type: ignore[type-arg]
    """Return the product itself and others: a third of its type, a third of its category, the rest of its department or any."""
    chosen = [place]
    for name, share in (("product_type", 1 / 4), ("category", 1 / 4), ("department", 1 / 6)):
        alike = np.flatnonzero(products[f"{name}_code"] == products[f"{name}_code"][place])
        chosen += random.choice(alike, max(1, round(count * share))).tolist()
    chosen += random.integers(0, len(products["product_id"]), count).tolist()
    return np.array(list(dict.fromkeys(chosen))[:count])


def _grades(
    products: dict[str, NDArray],
    wanted: NDArray[np.int64],
    offered: NDArray[np.int64],
    by_category: NDArray[np.bool_],  # type: ignore[type-arg]
) -> NDArray[np.float32]:
    same = {
        n: products[f"{n}_code"][wanted] == products[f"{n}_code"][offered] for n in ("product_type", "category", "department")
    }
    grade = np.where(same["department"], 1 / 3, 0.0)
    grade = np.where(same["category"] & same["department"], np.where(by_category, 1.0, 2 / 3), grade)
    return np.where(same["product_type"] & same["category"], 1.0, grade).astype(np.float32)


def _slices(texts: NDArray[np.object_], split: NDArray[np.object_]) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Return how often training had each query, and how long it is."""
    seen, counts = np.unique(texts[split == "train"].astype(str), return_counts=True)
    count = dict(zip(seen.tolist(), counts.tolist(), strict=True))
    often = [count.get(text, 0) for text in texts.tolist()]
    frequency = ["never seen" if n == 0 else "1 to 4 times" if n < 5 else "5 times or more" for n in often]
    words = [str(n) if (n := len(text.split())) < 3 else "3 or more" for text in texts.tolist()]
    return np.array(frequency, dtype=object), np.array(words, dtype=object)
