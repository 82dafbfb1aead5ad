"""home-depot-relevance: does this product answer this query, judged by people. The user brings the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from recstill.api import ContextSpec, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

GRADES = (1.0, 3.0)
QUERY = FeatureSpec(name="query", view="context", kind="text", buckets=20_000, length=48)
TEXTS = (
    QUERY,
    FeatureSpec(name="title", view="row", kind="text", buckets=40_000, length=96),
    FeatureSpec(name="query_title", view="match", kind="match", of=("query", "title"), buckets=60_000, length=128),
)


@dataclass(frozen=True)
class HomeDepot:
    """The table of judged pairs."""

    name: str = "home-depot-relevance"
    package: str = ""
    version: str = "2016"
    sha256: str = "none"
    members: Mapping[str, str] = field(default_factory=lambda: {"train.parquet": "train.parquet"})
    licence: str = "Kaggle Home Depot competition terms: local evaluation only"
    description: str = "74,067 pairs of a query and a product title, relevance 1 to 3"
    sources_version: str = "1"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Every feature comes with the request."""


class HomeDepotOptions(BaseModel):
    """How queries are split, and how many pairs without a judgment each training query gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    test_share: float = Field(0.2, gt=0, lt=1, description="of the queries")
    valid_share: float = Field(0.1, gt=0, lt=1)
    unlabelled: int = Field(0, ge=0, le=200, description="further titles per training query, half alike, half at random")
    query_share: float = Field(1.0, gt=0, le=1, description="take this share of the queries")
    seed: int = 7


class HomeDepotTask:
    """A row is a judged pair. The grade is (relevance - 1) / 2, between 0 and 1. Queries of the test split are in no other."""

    options = HomeDepotOptions
    spec = TaskSpec(
        name="home-depot",
        dataset="home-depot-relevance",
        description="search relevance: how well a product title answers a query, on a scale that people judged",
        labels=(LabelSpec(name="relevance", primary=True, graded=True, description="(judged relevance - 1) / 2"),),
        features=TEXTS,
        groups=("query_id",),
        endpoint=EndpointSpec(
            path="/v1/home-depot/score",
            query_key="query_id",
            query_optional=True,
            item_key="product_id",
            items_field="products",
            context=(ContextSpec(name="query", dtype="str", description="what was typed", required=True),),
        ),
        default_recipe="home-depot",
    )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """Judged pairs, and with `unlabelled` pairs of training queries with other titles."""
        assert isinstance(options, HomeDepotOptions)
        table = pq.read_table(raw / "train.parquet")
        query = table["search_term"].to_numpy(zero_copy_only=False)
        texts, query_id = np.unique(query.astype(str), return_inverse=True)
        random = np.random.default_rng(options.seed)
        place = random.permutation(len(texts)) / len(texts)
        share = place / options.query_share
        split_of = np.where(share < options.test_share, "test", "train").astype(object)
        split_of[(share >= options.test_share) & (share < options.test_share + options.valid_share)] = "valid"
        grade = (table["relevance"].to_numpy() - GRADES[0]) / (GRADES[1] - GRADES[0])
        kept = share[query_id] < 1
        columns = {
            "query_id": query_id[kept].astype(np.int64),
            "product_id": table["product_uid"].to_numpy()[kept].astype(np.int64),
            "query": texts[query_id[kept]].astype(object),
            "title": table["product_title"].to_numpy(zero_copy_only=False)[kept],
            "relevance": grade[kept].astype(np.float32),
            "split": split_of[query_id[kept]],
        }
        if options.unlabelled:
            further = _expand(columns, options.unlabelled, random)
            columns = {name: np.concatenate([values, further[name]]) for name, values in columns.items()}
        rows = len(columns["query_id"])
        # Judgments bear no date; all rows share one.
        stamp = pa.array(np.zeros(rows, np.int64)).cast(pa.timestamp("s", "UTC"))
        return pa.table({**columns, "event_timestamp": stamp, "sampling_rate": np.ones(rows, np.float32)})

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """There are none."""


def _expand(columns: dict[str, NDArray], count: int, random: np.random.Generator) -> dict[str, NDArray]:  # type: ignore[type-arg]
    """Pair each training query with `count` training titles that it was not judged with: the nearest by TF-IDF,
    and others at random."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    train = columns["split"] == "train"
    product, first = np.unique(columns["product_id"][train], return_index=True)
    title = columns["title"][train][first]
    query, at = np.unique(columns["query_id"][train], return_index=True)
    text = columns["query"][train][at]
    judged = set(zip(columns["query_id"][train].tolist(), columns["product_id"][train].tolist(), strict=True))
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(title)
    titles = vectorizer.transform(title).T.tocsc()
    near = count // 2
    found: list[tuple[int, int]] = []
    for start in range(0, len(query), 256):
        alike = (vectorizer.transform(text[start : start + 256]) @ titles).toarray()
        best = np.argpartition(-alike, min(2 * near + 8, alike.shape[1] - 1), axis=1)[:, : 2 * near + 8]
        for row in range(alike.shape[0]):
            order = best[row][np.argsort(-alike[row, best[row]])]
            drawn = random.integers(0, len(product), 2 * (count - near))
            fresh = [p for p in dict.fromkeys([*order, *drawn]) if (query[start + row], product[p]) not in judged]
            found += [(start + row, int(p)) for p in fresh[:count]]
    rows, items = np.array(found).T
    return {
        "query_id": query[rows], "product_id": product[items], "query": text[rows], "title": title[items],
        "relevance": np.full(len(rows), np.nan, np.float32), "split": np.full(len(rows), "unlabelled", dtype=object),
    }  # fmt: skip
