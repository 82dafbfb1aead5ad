"""For every field of a recipe and of a task: whose keys change with it, and that no other stage's does. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from recstill.api import ConfigError, ContextSpec, DecisionSpec, EndpointSpec, FeatureSpec, LabelSpec, RetrievalSpec, TaskSpec
from recstill.data.snapshot import Snapshot
from recstill.features.featureset import FeatureSet, View
from recstill.recipes.config import (
    DistilConfig,
    ListsConfig,
    MixedConfig,
    ModelConfig,
    PruneConfig,
    QuantiseConfig,
    Recipe,
    RuleConfig,
    StrategyConfig,
    TeacherConfig,
)
from recstill.recipes.platform import Platform
from recstill.recipes.progress import Progress
from recstill.recipes.run import Run
from recstill.recipes.stage_inputs import (
    alone_inputs,
    baseline_inputs,
    compressed_inputs,
    distilled_inputs,
    exported_inputs,
    pretrain_inputs,
    run_inputs,
    score_inputs,
)
from recstill.settings import Settings
from recstill.training.config import TrainingConfig

# What follows from a stage: a teacher's weights decide its signals, these the student, this what compression makes of it.
STUDENT = {"distilled", "pruned", "quantised", "student"}
PRUNED = {"pruned", "quantised", "student"}
TEACHER = {"pretrain", "teacher", "score"} | STUDENT
STUDENTS = {"alone"} | STUDENT
TRAINED = TEACHER | {"alone"}
ALL = TRAINED | {"baseline"}
EXPORTED = {"teacher", "score"} | STUDENT  # a manifest is in the artifact, which names the teacher that speaks

TRAINING = {"epochs": 7, "batch_size": 7, "learning_rate": 0.7, "table_learning_rate": 0.7, "l2": 0.7, "table_l2": 0.7,
            "table_optimizer": "adam", "table_init_std": 0.7, "freeze": ("tables",), "warmup_steps": 7, "decay": "cosine",
            "bf16": False, "patience": 7, "validate_every": 7, "checkpoint_steps": 7}  # fmt: skip
MODEL = {"name": "small-dcn", "features": "wide", "options": {"dim": 7}, "register_as": "other", "table_dtype": "float16",
         "keep_negatives": 0.5, "label_share": 0.5, "without": ("x",), "start_from": "m:1"}  # fmt: skip

RECIPE: dict[str, tuple[Any, set[str]]] = {
    "task": ("t", set()),  # names the spec, whose content counts
    "description": ("other", set()),
    "data": ({"n": 7}, set()),  # decides the snapshot, whose content counts
    "seeds": ((1,), ALL),
    "teachers": ((TeacherConfig(name="dlrm", features="none", register_as="second"),), STUDENT),
    "rules": ((RuleConfig(when="x > 0", score=1.0),), STUDENTS),
    "baselines": (("lightgbm-baseline",), set()),  # adds a stage
    "threads": (2, TRAINED),
    "gates": ({"size": {"min_ratio": 4.0}}, EXPORTED),
    "prune": (PruneConfig(share=0.3), PRUNED),
    "quantise": (QuantiseConfig(recovery=TrainingConfig(epochs=7)), {"quantised", "student"}),
}
DISTIL: dict[str, tuple[Any, set[str]]] = {
    "strategies": ((StrategyConfig(name="soft-target", weight=7.0),), STUDENT),
    "label_weight": (0.7, STUDENT), "live": (True, STUDENT), "unlabelled": (True, {"score"} | STUDENT),
    "mixed": (MixedConfig(share=0.7), {"score"} | STUDENT), "replay": (True, {"score"} | STUDENTS),
    "lists": (ListsConfig(random=7), STUDENT), "min_coverage": (0.7, STUDENT), "max_age_days": (7.0, STUDENT),
    "freeze": (("tables",), STUDENT), "fine_tune": (TrainingConfig(epochs=7), STUDENTS),
}  # fmt: skip
TASK: dict[str, tuple[Any, set[str]]] = {
    "name": ("t2", EXPORTED), "dataset": ("d2", EXPORTED), "description": ("other", EXPORTED),
    "labels": ((LabelSpec(name="y", primary=True, weight=7.0),), ALL),
    "features": ((FeatureSpec(name="x", view="row", buckets=7), FeatureSpec(name="item", view="key", kind="categorical")), ALL),
    "groups": (("item",), ALL), "endpoint": (None, EXPORTED),
    "derived_keys": ({"k": "v:f"}, EXPORTED), "attributes": (("x",), ALL), "retrieval": (RetrievalSpec(k=7), ALL),
    "slices": (("x",), ALL), "fairness": (("x",), ALL), "decision": (DecisionSpec(cost_miss=7.0), ALL),
    "default_recipe": ("other", EXPORTED), "case": ("other", EXPORTED), "auction": (True, EXPORTED),
    "gates": ({"size": {"min_ratio": 4.0}}, EXPORTED),
}  # fmt: skip
LABEL: dict[str, tuple[Any, set[str]]] = {
    "name": ("z", ALL), "kind": ("count", ALL), "num_classes": (7, ALL), "weight": (7.0, ALL), "primary": (None, set()),
    "graded": (True, ALL), "description": ("other", EXPORTED),
}  # fmt: skip
FEATURE: dict[str, tuple[Any, set[str]]] = {
    "name": ("other", ALL), "view": ("context", ALL), "kind": ("sequence", ALL), "table": ("shared", ALL),
    "min_count": (7, ALL), "oov_buckets": (7, ALL), "buckets": (7, ALL), "length": (7, ALL), "title": ("other", EXPORTED),
    "ngrams": (("word",), ALL), "of": (None, set()),
}  # fmt: skip
ENDPOINT: dict[str, tuple[Any, set[str]]] = {
    "path": ("/other", EXPORTED), "query_key": ("x", ALL), "item_key": ("x", ALL), "items_field": ("other", EXPORTED),
    "context": ((ContextSpec(name="c"),), EXPORTED), "query_optional": (True, EXPORTED), "catalogue": (True, EXPORTED),
    "filters": (("x",), EXPORTED), "max_id_bytes": (7, EXPORTED), "nothing_known": ("refuse", EXPORTED),
    "max_items": (7, EXPORTED), "max_body_bytes": (7, EXPORTED),
}  # fmt: skip


def cases(table: Mapping[str, tuple[Any, set[str]]], model: type[BaseModel], besides: set[str] = frozenset()) -> list[Any]:
    """The table's rows, which must be all fields of the model: a new field is classified, or this fails."""
    assert set(table) | besides == set(model.model_fields), set(table) ^ set(model.model_fields)
    return [pytest.param(name, *row, id=name) for name, row in table.items() if row[0] is not None]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    home = tmp_path_factory.mktemp("home")
    return Platform.open(Settings(home, f"sqlite:///{home}/registry.db", str(home / "artifacts"), home))


@pytest.fixture
def run(platform: Platform, tmp_path: Path) -> Run:
    """A run as it stands before its first stage; nothing of it was made."""
    pq.write_table(pa.table({"x": [0.5, -0.5, 2.0]}), tmp_path / "rows.parquet")
    spec = TaskSpec(
        name="t", dataset="d", description="made up", groups=("x",), labels=(LabelSpec(name="y", primary=True),),
        features=(FeatureSpec(name="x", view="row"), FeatureSpec(name="item", view="key", kind="categorical")),
        endpoint=EndpointSpec(path="/t", item_key="item", items_field="items"),
    )  # fmt: skip
    part = {"features": "none", "training": TrainingConfig()}
    recipe = Recipe(
        task="t", teacher=TeacherConfig(name="dlrm", register_as="big", **part),
        student=ModelConfig(name="small-mlp", register_as="small", **part), baselines=("popularity",),
        distil=DistilConfig(strategies=(StrategyConfig(name="soft-target"),)),
        prune=PruneConfig(share=0.2), quantise=QuantiseConfig(),
    )  # fmt: skip
    snapshot = Snapshot(tmp_path, {"id": "t-1", "sha256": "a" * 64, "num_rows": 3})
    features = {role: FeatureSet("none", ()) for role in ("teacher", "student")}
    code = {name: {"code": name} for name in ("recstill", *(plugin.name for plugin in platform.plugins.loaded))}
    return Run(platform, "r", recipe, "r-1", SimpleNamespace(spec=spec), snapshot, features, Progress(), code=code)


def keys_of(run: Run) -> dict[str, str]:
    """The key of every stage, in a run in which each result is a function of its key."""
    run = replace(run, keys={}, artifacts={"student.start_from": "s", "teacher.start_from": "s", **run.artifacts})
    for role in run.recipe.all_teachers:
        run.features.setdefault(role, run.features["teacher"])
        run.keys[f"pre-{role}"] = pretrain_inputs(run, role).key
        run.artifacts |= {role: exported_inputs(run, role, f"pre-{role}", {}).key}
    said = {role: score_inputs(run, role, f"{role}:1", role).key for role in run.recipe.all_teachers}
    keys = {"pretrain": run.keys["pre-teacher"], "teacher": run.artifacts["teacher"], "score": said["teacher"]}
    keys |= {"baseline": baseline_inputs(run, "popularity").key, "alone": alone_inputs(run, run.recipe.seeds[0]).key}
    keys["distilled"] = distilled_inputs(run, run.recipe.seeds[0], said).key
    before = "distilled"
    for stage in run.recipe.student_stages[1:]:
        run.keys[before] = keys[before]
        keys[stage] = compressed_inputs(run, stage, before).key
        before = stage
    run.keys[before] = keys[before]
    return {**keys, "student": exported_inputs(run, "student", before, {"teacher": keys["teacher"]}).key}


def changed(run: Run, other: Run) -> set[str]:
    before, after = keys_of(run), keys_of(other)
    return {stage for stage in before if before[stage] != after[stage]}


def of_spec(run: Run, **fields: Any) -> Run:
    return replace(run, task=SimpleNamespace(spec=run.task.spec.model_copy(update=fields)))


def of_recipe(run: Run, **fields: Any) -> Run:
    return replace(run, recipe=run.recipe.model_copy(update=fields))


def of_part(run: Run, role: str, name: str, value: Any) -> Run:
    """A role with another field; another service has one view more."""
    other = of_recipe(run, **{role: getattr(run.recipe, role).model_copy(update={name: value})})
    if name == "features":
        view = View("v", ("item",), {"x": "Int64"}, "request", "", "")
        other = replace(other, features={**run.features, role: FeatureSet(value, (view,))})
    return other


@pytest.mark.parametrize(("name", "value", "readers"), cases(RECIPE, Recipe, {"teacher", "student", "distil"}))
def test_a_recipes_field_decides_the_stages_that_read_it(run: Run, name: str, value: Any, readers: set[str]) -> None:
    assert changed(run, of_recipe(run, **{name: value})) == readers


@pytest.mark.parametrize(("name", "value", "readers"), cases(DISTIL, DistilConfig))
def test_a_field_of_distil_decides_the_stages_that_read_it(run: Run, name: str, value: Any, readers: set[str]) -> None:
    assert changed(run, of_recipe(run, distil=run.recipe.distil.model_copy(update={name: value}))) == readers


TEACHER_ONLY = {"version": (None, set()), "checkpoints": ((1,), TEACHER)}


@pytest.mark.parametrize(("name", "value", "readers"), cases(
    {name: (value, TEACHER) for name, value in MODEL.items()} | TEACHER_ONLY, TeacherConfig, {"training"},
))  # fmt: skip
def test_a_field_of_the_teacher_decides_what_follows_from_it(run: Run, name: str, value: Any, readers: set[str]) -> None:
    expected = {"register_as": EXPORTED, "features": TEACHER | {"baseline"}, "without": TEACHER | {"baseline"}}
    assert changed(run, of_part(run, "teacher", name, value)) == expected.get(name, readers)


@pytest.mark.parametrize(("name", "value", "readers"), cases(
    {name: (value, STUDENTS) for name, value in MODEL.items()}, ModelConfig, {"training"},
))  # fmt: skip
def test_a_field_of_the_student_decides_no_teacher(run: Run, name: str, value: Any, readers: set[str]) -> None:
    expected = {"register_as": {"student"}}
    assert changed(run, of_part(run, "student", name, value)) == expected.get(name, readers)


@pytest.mark.parametrize(("name", "value", "_readers"), cases({n: (v, set()) for n, v in TRAINING.items()}, TrainingConfig))
def test_a_field_of_a_training_decides_what_is_trained_so(run: Run, name: str, value: Any, _readers: set[str]) -> None:
    config = TrainingConfig().model_copy(update={name: value})
    decides = name != "checkpoint_steps"  # a run that is killed and resumed ends with the same weights
    for role, readers in (("teacher", TEACHER), ("student", STUDENTS)):
        assert changed(run, of_part(run, role, "training", config)) == (readers if decides else set())
    pruned = run.recipe.prune.model_copy(update={"recovery": config})
    assert changed(run, of_recipe(run, prune=pruned)) == (PRUNED if decides else set())
    quantised = run.recipe.quantise.model_copy(update={"recovery": config})
    assert changed(run, of_recipe(run, quantise=quantised)) == ({"quantised", "student"} if decides else set())


@pytest.mark.parametrize(("name", "value", "readers"), cases(TASK, TaskSpec))
def test_a_tasks_field_decides_the_stages_that_read_it(run: Run, name: str, value: Any, readers: set[str]) -> None:
    assert changed(run, of_spec(run, **{name: value})) == readers


@pytest.mark.parametrize(("name", "value", "readers"), cases(LABEL, LabelSpec))
def test_a_labels_field_decides_the_stages_that_read_it(run: Run, name: str, value: Any, readers: set[str]) -> None:
    assert changed(run, of_spec(run, labels=(run.task.spec.labels[0].model_copy(update={name: value}),))) == readers


@pytest.mark.parametrize(("name", "value", "readers"), cases(FEATURE, FeatureSpec))
def test_a_features_field_decides_the_stages_that_read_it(run: Run, name: str, value: Any, readers: set[str]) -> None:
    first, item = run.task.spec.features
    assert changed(run, of_spec(run, features=(first, item.model_copy(update={name: value})))) == readers
    hidden = of_part(run, "student", "without", ("item",))
    unseen = of_spec(hidden, features=(first, item.model_copy(update={name: value})))
    expected = readers if name == "name" else readers - {"alone"}
    assert changed(hidden, unseen) == expected, "a student does not depend on what it does not see"


@pytest.mark.parametrize(("name", "value", "readers"), cases(ENDPOINT, EndpointSpec))
def test_an_endpoints_field_decides_the_stages_that_read_it(run: Run, name: str, value: Any, readers: set[str]) -> None:
    assert changed(run, of_spec(run, endpoint=run.task.spec.endpoint.model_copy(update={name: value}))) == readers


def test_a_feature_of_another_role_counts_where_it_shares_a_table(run: Run) -> None:
    shared = FeatureSpec(name="past", view="row", kind="sequence", length=4, table="item")
    spec = run.task.spec.model_copy(update={"features": (*run.task.spec.features, shared)})
    two = of_part(replace(run, task=SimpleNamespace(spec=spec)), "student", "without", ("past",))
    longer = of_spec(two, features=(*run.task.spec.features, shared.model_copy(update={"min_count": 7})))
    assert "alone" in changed(two, longer), "the table's vocabulary is fitted on both"
    own = shared.model_copy(update={"table": "own"})
    apart = of_spec(two, features=(*run.task.spec.features, own))
    later = of_spec(two, features=(*run.task.spec.features, own.model_copy(update={"min_count": 7})))
    assert "alone" not in changed(apart, later)


@pytest.mark.parametrize(("name", "readers"), [
    ("recstill", ALL), ("recstill-rankers", TRAINED), ("recstill-strategies", STUDENT), ("recstill-commerce", {"baseline"}),
    ("recstill-gates", set()), ("recstill-text", set()),
])  # fmt: skip
def test_code_decides_the_stages_that_run_it(run: Run, name: str, readers: set[str]) -> None:
    assert changed(run, replace(run, code={**run.code, name: {"code": "edited"}})) == readers


def test_rows_decide_everything_and_a_models_own_files_it_alone(run: Run, tmp_path: Path) -> None:
    other = Snapshot(run.snapshot.folder, {**run.snapshot.meta, "sha256": "b" * 64})
    assert changed(run, replace(run, snapshot=other)) == ALL
    own = tmp_path / "trees.txt"
    own.write_text("one")
    named = of_part(run, "teacher", "options", {"files": {"y": str(own)}})
    before = keys_of(named)
    own.write_text("two")
    after = keys_of(named)
    assert {stage for stage in before if before[stage] != after[stage]} == TEACHER


def test_a_starting_version_counts_by_its_content(run: Run) -> None:
    started = of_part(run, "student", "start_from", "small:1")
    assert changed(replace(started, artifacts={"student.start_from": "one"}), started) == STUDENTS


def test_a_run_as_a_whole_is_decided_by_all_of_it(run: Run) -> None:
    run = replace(run, artifacts={})
    key = run_inputs(run).key
    for other in (of_recipe(run, threads=2), of_spec(run, case="other"), replace(run, code={**run.code, "recstill": "edited"})):
        assert run_inputs(other).key != key
    assert run_inputs(of_recipe(run, description="other words")).key == key


@pytest.mark.parametrize("when", ["random() > 0.5", "x > epoch_us(now()) % 1000 / 500 - 1"])
def test_rules_count_by_what_they_say(run: Run, when: str) -> None:
    run = of_recipe(run, rules=(RuleConfig(when=when, score=1.0),))
    found = {alone_inputs(replace(run), 0).key for _ in range(40)}
    assert len(found) > 1
    fixed = of_recipe(run, rules=(RuleConfig(when="x > 0 -- of the house", score=1.0),))
    assert len({alone_inputs(replace(fixed), 0).key for _ in range(4)}) == 1


@pytest.mark.parametrize("when", ["unnest([true, false])", "max(x) > 0", "x > 0; select 1", "x > 0, x > 1", "zz"])
def test_a_rule_that_is_no_condition_on_a_row_is_refused(run: Run, when: str) -> None:
    run = of_recipe(run, rules=(RuleConfig(when=when, score=1.0),))
    with pytest.raises(ConfigError, match=r"rules\.0\.when"):
        alone_inputs(run, 0)
