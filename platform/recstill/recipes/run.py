"""Run a recipe: pretrain, score, distil, fine-tune, compare, export, register, report."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import recstill
from recstill.api.errors import ConfigError, FeatureError, RegistryError
from recstill.data.code import code_of, digest_of_tree
from recstill.data.files import read_json, write_json
from recstill.data.snapshot import Snapshot, open_snapshot
from recstill.features.featureset import FeatureSet
from recstill.pipeline.journal import Journal
from recstill.recipes.advising import advice
from recstill.recipes.config import Recipe
from recstill.recipes.data import NO_SERVICE, feature_set_of, snapshot_for
from recstill.recipes.features import ensure_features
from recstill.recipes.loading import load_recipe
from recstill.recipes.mixing import MIXED
from recstill.recipes.planning import PlannedStage, check_plan, plan
from recstill.recipes.progress import Progress
from recstill.recipes.registered import artifacts_of, registered_problems, resolve
from recstill.recipes.row_checks import check_rows, columns_needed, row_remarks
from recstill.recipes.rows import RunRows
from recstill.recipes.rules import RULE, read_rules, rule_scores
from recstill.recipes.stage_inputs import run_inputs
from recstill.recipes.stages import RunResult, run_stages
from recstill.recipes.staging import Stage, do_stage
from recstill.recipes.working import working
from recstill.registry.runs import add_run, get_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recstill.api.task import Task
    from recstill.recipes.platform import Platform


@dataclass
class Run:
    """One execution. What a finished stage found lies in `state/`, what decided it in `inputs/`: a resumed run skips it.

    recipe: with every alias resolved; `asked` keeps what stood there. artifacts: of the registered versions that it names, by
    place. code: digests of recstill and of the plugins when the run began: what is loaded, whatever is edited meanwhile.
    watch: sees (epoch, validation score) of whatever trains, and may stop it by raising.
    """

    platform: Platform
    name: str
    recipe: Recipe
    id: str
    task: Task
    snapshot: Snapshot
    features: dict[str, FeatureSet]
    progress: Progress
    watch: Callable[[int, float], None] | None = None
    asked: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    working_on: str = ""
    earlier_cpu_seconds: float = 0.0

    @property
    def folder(self) -> Path:
        return self.platform.settings.folder("runs", self.id)

    @cached_property
    def rows(self) -> RunRows:
        rules = read_rules(self.recipe.rules)
        made = {RULE: rule_scores(rules, self.snapshot)} if rules else {}
        parts = {"student": self.recipe.student, **self.recipe.all_teachers}
        without = {role: part.without for role, part in parts.items() if part.without}
        return RunRows(self.snapshot, self.task.spec, self.features, made=made, without=without)

    @cached_property
    def columns(self) -> set[str]:
        """The columns of the snapshot."""
        return set(self.snapshot.meta["columns"])

    @cached_property
    def needs(self) -> set[str]:
        """The signals that the recipe's strategies ask for."""
        catalog = self.platform.catalog("strategies")
        return {signal for part in self.recipe.distil.strategies for signal in catalog[part.name].signals}

    @property
    def needs_lists(self) -> bool:
        return "lists" in self.needs

    @property
    def taught_splits(self) -> list[str]:
        """The splits that teachers speak about. Test rows are never scored."""
        return ["train", "valid", *self.further_splits]

    @property
    def further_splits(self) -> list[str]:
        """The splits that a distilled student learns from beside the training rows."""
        distil = self.recipe.distil
        wanted = {"unlabelled": distil.unlabelled, MIXED: distil.mixed is not None, "replay": distil.replay}
        return [name for name, is_wanted in wanted.items() if is_wanted]

    def names_of(self, seed: int) -> list[str]:
        """The names of a seed's students: distilled, and what compression makes of it; the last is exported."""
        return [f"{stage}-{seed}" for stage in self.recipe.student_stages]

    def options_of(self, name: str, role: str) -> dict[str, Any]:
        """The options of a trained model: the recipe's, or those that pruning left."""
        if name.startswith(("pruned-", "quantised-")):
            return dict(self.result(name)["options"])
        return self.recipe.part(role).options

    def factory(self, role: str) -> Any:
        """The class of a role's model. Any student may teach: an assistant, an earlier version, a student its own size."""
        return self.platform.catalog(self.kind(role))[self.recipe.part(role).name]

    def kind(self, role: str) -> str:
        """The catalog that a role's model comes from."""
        teaches = role != "student" and self.recipe.part(role).name in self.platform.catalog("teachers")
        return "teachers" if teaches else "students"

    def weights(self, name: str) -> Path:
        """Where the weights of a trained model lie."""
        return self.platform.settings.folder("runs", self.id, "weights") / f"{name}.safetensors"

    @cached_property
    def journal(self) -> Journal:
        """The results of this home, for all runs."""
        return Journal(self.platform.settings.folder("cache", "journal"))

    @property
    def checkpoints(self) -> Path:
        """Where the stage that is being worked on keeps its checkpoints: those of other inputs are not found there."""
        return self.folder / "checkpoints" / self.working_on[:16]

    def state(self, name: str) -> Path:
        """Where a finished stage's result lies."""
        return self.folder / "state" / f"{name}.json"

    def is_done(self, name: str) -> bool:
        """Say whether a stage of this run is finished."""
        return self.state(name).is_file()

    def result(self, name: str) -> dict[str, Any]:
        """Return what a finished stage found."""
        return dict(read_json(self.state(name)))

    def stage(self, stage: Stage) -> dict[str, Any]:
        """Return what the stage finds, doing its work unless it was done with these inputs."""
        return do_stage(self, stage)


def run_recipe(
    platform: Platform, reference: str, overrides: Sequence[str] = (), progress: Progress | None = None
) -> RunResult:
    """Run a recipe by name or path. Everything wrong with it is reported before anything trains."""
    progress = progress or Progress()
    run = prepare_run(platform, *load_recipe(platform, reference, overrides), progress)
    return _execute(run, is_new=True)


def begin_run(run: Run, recipe_name: str) -> None:
    """Lay out the run's folder and record it as running."""
    saved = {"recipe": run.name, "config": run.recipe.model_dump(mode="json"), "snapshot": run.snapshot.id}
    saved |= {"asked": dict(run.asked), "key": run_inputs(run).key}
    write_json(run.folder / "run.json", {**saved, "features": {role: found.to_json() for role, found in run.features.items()}})
    with run.platform.registry.transaction() as session:
        add_run(session, run.id, recipe_name, run.task.spec.name, run.recipe.model_dump(mode="json"))


def prepare_run(platform: Platform, name: str, recipe: Recipe, progress: Progress) -> Run:
    """Make the snapshot if there is none, and check the recipe against it."""
    run = open_run(platform, name, recipe, progress)
    if problems := registered_problems(run):
        raise ConfigError(f"Recipe {name!r}", problems)
    rows = run.snapshot.table(columns_needed(run.task.spec))
    check_rows(rows, run.task.spec)  # an older snapshot may be of a time when nobody looked
    check_plan(run)
    for remark in [*row_remarks(rows, run.task.spec), *advice(run)]:
        progress.say(remark)
    return run


def open_run(platform: Platform, name: str, recipe: Recipe, progress: Progress) -> Run:
    """Resolve what the recipe names, make the snapshot if there is none, and give the run its id."""
    recipe, asked = resolve(platform, recipe)
    task = platform.task(recipe.task)
    features = _feature_sets(platform, task, recipe, progress)
    if recipe.distil.mixed is not None and task.spec.retrieval is not None:
        raise ConfigError(
            f"Recipe {name!r}", ["distil.mixed: a retrieval task draws its rows from the catalogue; leave it out"]
        )
    snapshot = snapshot_for(platform, task, recipe.data, recipe.teacher.features, progress.say, recipe.distil.mixed)
    run_id = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    artifacts, code = artifacts_of(platform, recipe), _code_of(platform)
    return Run(platform, name, recipe, run_id, task, snapshot, features, progress, asked=asked, artifacts=artifacts, code=code)


def plan_recipe(platform: Platform, reference: str, overrides: Sequence[str] = ()) -> list[PlannedStage]:
    """Return what a run would do, with estimates; nothing is trained or registered."""
    run = prepare_run(platform, *load_recipe(platform, reference, overrides), Progress())
    try:
        return plan(run)
    finally:
        shutil.rmtree(run.folder, ignore_errors=True)


def resume_run(platform: Platform, run_id: str, progress: Progress | None = None) -> RunResult:
    """Go on with a run that was killed; it ends with the same metrics as an unbroken one."""
    with platform.registry.read() as session:
        run_id = get_run(session, run_id).id
    folder = platform.settings.folder("runs", run_id)
    if not (folder / "run.json").is_file():
        raise RegistryError(f"Run {run_id} left nothing to resume in {folder}. Start it again with `recstill run`.")
    saved = read_json(folder / "run.json")
    recipe = Recipe.model_validate(saved["config"])
    snapshot = open_snapshot(saved["snapshot"], platform.settings.folder("snapshots"))
    features = {role: FeatureSet.from_json(content) for role, content in saved["features"].items()}
    task, asked = platform.task(recipe.task), saved.get("asked", {})
    artifacts, code = artifacts_of(platform, recipe), _code_of(platform)
    run = Run(
        platform, saved["recipe"], recipe, run_id, task, snapshot, features, progress or Progress(),
        asked=asked, artifacts=artifacts, code=code,
    )  # fmt: skip
    return _execute(run, is_new=False)


def _code_of(platform: Platform) -> dict[str, Any]:
    """The digests of the code that is loaded: recstill's, and each plugin's with the versions of what it requires."""
    found: dict[str, Any] = {"recstill": digest_of_tree(Path(recstill.__file__).parent)}
    for plugin in platform.plugins.loaded:
        found[plugin.name] = code_of(plugin.code, plugin.name)
    return found


def _feature_sets(platform: Platform, task: Task, recipe: Recipe, progress: Progress) -> dict[str, FeatureSet]:
    services = {role: part.features for role, part in recipe.all_teachers.items()} | {"student": recipe.student.features}
    if set(services.values()) != {NO_SERVICE}:
        ensure_features(platform, progress.say)
    found = {role: feature_set_of(platform, service) for role, service in services.items()}
    if found["student"].privileged:
        raise FeatureError(
            f"student.features: service {found['student'].service!r} holds privileged features, which are not there at request "
            f"time: {', '.join(found['student'].privileged)}. Use them in the teacher only."
        )
    for role, features in found.items():
        known = {feature.name for feature in features.select(task.spec)}
        if strange := set(recipe.part(role).without) - known:
            raise ConfigError(f"Recipe for {task.spec.name}", [f"{role}.without: it does not see {', '.join(sorted(strange))}"])
        if beyond := set(features.features) - set(found["teacher"].features):
            raise ConfigError(
                f"Recipe for {task.spec.name}",
                [f"{role}.features: the first teacher's service lacks {', '.join(sorted(beyond))}; it must hold everybody's"],
            )
    return found


def _execute(run: Run, *, is_new: bool) -> RunResult:
    with working(run, f"go on with `recstill run --resume {run.id}`"):
        if is_new:
            begin_run(run, run.name)
        return run_stages(run)
