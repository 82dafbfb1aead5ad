"""ml-100k: who likes which film, with a knowledge graph of the films beside the ratings. A run takes a minute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import csv
from pydantic import BaseModel, ConfigDict, Field

from recstill.api import ContextSpec, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

HISTORY = 20
_PARTS = ("inter", "user", "item", "kg", "link")


@dataclass(frozen=True)
class MovieLens:
    """The files as RecBole carries them."""

    name: str = "ml-100k"
    package: str = "recbole"
    version: str = "1.2.1"
    sha256: str = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
    members: Mapping[str, str] = field(
        default_factory=lambda: {f"{part}.tsv": f"recbole/dataset_example/ml-100k/ml-100k.{part}" for part in _PARTS}
    )
    licence: str = "GroupLens: research use, no redistribution"
    description: str = "100,000 ratings of 1,682 films by 943 people, and 91,631 triples about the films"
    sources_version: str = "2"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Every feature comes with the request."""


class FilmsOptions(BaseModel):
    """From which rating on a film is liked, and how the ratings are split by time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    liked_from: float = Field(4.0, ge=1, le=5)
    train_share: float = Field(0.8, gt=0, lt=1)
    valid_share: float = Field(0.1, gt=0, lt=1)


class FilmsTask:
    """A row is a rating. The attribute `knowledge` says how near the film is, in the knowledge graph, to films that the person
    liked in the training time: a rule for `posterior-regularisation`, which no model sees. `man` is a fairness group."""

    options = FilmsOptions
    spec = TaskSpec(
        name="films",
        dataset="ml-100k",
        description="will this person like this film",
        labels=(LabelSpec(name="liked", primary=True, description="rated at least `liked_from`"),),
        features=(
            FeatureSpec(name="user_id", view="row", kind="categorical", oov_buckets=2),
            FeatureSpec(name="item_id", view="row", kind="categorical", table="item_id", oov_buckets=2),
            *(FeatureSpec(name=name, view="row", kind="categorical") for name in ("occupation", "class")),
            *(FeatureSpec(name=name, view="row") for name in ("age", "release_year")),
            FeatureSpec(name="liked_before", view="context", kind="sequence", table="item_id", oov_buckets=2, length=HISTORY),
        ),
        groups=("user_id",),
        attributes=("knowledge", "man", "popularity"),
        endpoint=EndpointSpec(
            path="/v1/films/score",
            query_key="user_id",
            item_key="item_id",
            items_field="films",
            context=(ContextSpec(name="liked_before", dtype="ints", description="films the person liked, newest last"),),
        ),
        default_recipe="films",
    )

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """Ratings in the order of time: the last ones test."""
        assert isinstance(options, FilmsOptions)
        rated, people, films = (_read(raw / f"{part}.tsv") for part in ("inter", "user", "item"))
        rated = rated.take(pa.array(np.argsort(rated["timestamp"].to_numpy(), kind="stable")))
        user, item = (rated[name].to_numpy() for name in ("user_id", "item_id"))
        liked = (rated["rating"].to_numpy() >= options.liked_from).astype(np.float32)
        share = np.arange(len(user)) / len(user)
        train = share < options.train_share
        split = np.where(train, "train", np.where(share < options.train_share + options.valid_share, "valid", "test"))
        person, film = _places(people["user_id"].to_numpy(), user), _places(films["item_id"].to_numpy(), item)
        years = [str(year) for year in films["release_year"].to_pylist()]  # some are unknown, one is `V`
        columns = {
            "user_id": user, "item_id": item, "liked": liked, "split": split,
            "occupation": people["occupation"].to_numpy(zero_copy_only=False)[person],
            "age": people["age"].to_numpy()[person].astype(np.float32),
            "class": films["class"].to_numpy(zero_copy_only=False)[film],
            "release_year": np.array([float(y) if y.isdigit() else np.nan for y in years], np.float32)[film],
            "man": (people["gender"].to_numpy(zero_copy_only=False)[person] == "M").astype(np.float32),
            "popularity": np.bincount(item[train], minlength=int(item.max()) + 1)[item].astype(np.float32),
            "knowledge": _knowledge(raw, user, item, liked, train),
            "liked_before": pa.array(_histories(user, item, liked), pa.list_(pa.int64())),
            "event_timestamp": pa.array(rated["timestamp"].to_numpy().astype(np.int64)).cast(pa.timestamp("s", "UTC")),
            "sampling_rate": np.ones(len(user), np.float32),
        }  # fmt: skip
        return pa.table(columns)

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """There are none."""


def _histories(user: NDArray[np.int64], item: NDArray[np.int64], liked: NDArray[np.float32]) -> list[list[int]]:
    """Return the last films that each row's person had liked before it, newest last; rows are in the order of time."""
    seen: dict[int, list[int]] = {}
    found = []
    for person, film, is_liked in zip(user.tolist(), item.tolist(), liked.tolist(), strict=True):
        past = seen.setdefault(person, [])
        found.append(past[-HISTORY:])
        if is_liked:
            past.append(film)
    return found


def _knowledge(
    raw: Path, user: NDArray[np.int64], item: NDArray[np.int64], liked: NDArray[np.float32], train: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return each row's mean Jaccard similarity of the film's neighbours in the graph to those of the films that the person
    liked in training (without itself) less that to the disliked ones, standardised; 0 where nothing is known."""
    link, triples = _read(raw / "link.tsv"), _read(raw / "kg.tsv")
    entity = dict(zip(link["entity_id"].to_pylist(), link["item_id"].to_pylist(), strict=True))
    tails: dict[tuple[str, str], int] = {}
    size = int(max(item.max(), *entity.values())) + 1
    pairs = [
        (entity[head], tails.setdefault((relation, tail), len(tails)))
        for head, relation, tail in zip(*(triples[name].to_pylist() for name in triples.column_names), strict=True)
        if head in entity
    ]
    neighbours = np.zeros((size, len(tails)), np.float32)
    neighbours[tuple(np.array(pairs).T)] = 1.0
    shared = neighbours @ neighbours.T
    counts = neighbours.sum(1)
    similar = shared / np.maximum(counts[:, None] + counts[None, :] - shared, 1.0)
    np.fill_diagonal(similar, 0.0)
    taste = np.zeros((int(user.max()) + 1, size), np.float32)
    taste[user[train], item[train]] = 2 * liked[train] - 1
    likes, dislikes = np.maximum(taste, 0), np.maximum(-taste, 0)
    near = likes @ similar / np.maximum(likes.sum(1, keepdims=True), 1) - dislikes @ similar / np.maximum(
        dislikes.sum(1, keepdims=True), 1
    )
    values = near[user, item]
    return (values / (values[train].std() or 1.0)).astype(np.float32)


def _read(path: Path) -> pa.Table:
    table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="\t", quote_char=False))
    return table.rename_columns([name.split(":")[0] for name in table.column_names])


def _places(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(keys)
    return order[np.searchsorted(keys[order], wanted)]
