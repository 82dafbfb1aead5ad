"""Conflicts found before training, plans, stored signals, searches and sweeps, on synthetic clicks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from filelock import FileLock

from recstill.api import ConfigError, DataError, RegistryError, UnknownNameError
from recstill.cli import cli
from recstill.data.fetch import fetch
from recstill.data.files import read_card, write_card
from recstill.recipes.loading import load_recipe
from recstill.recipes.platform import Platform
from recstill.recipes.progress import Progress
from recstill.recipes.run import plan_recipe, prepare_run, run_recipe
from recstill.recipes.signals import list_signals, score_recipe, show_signals
from recstill.recipes.sweep import load_experiment, run_sweep, table_of
from recstill.recipes.tuning import name_of, tune
from recstill.registry.runs import list_runs, metrics_of
from recstill.registry.trials import list_trials
from recstill.registry.versions import find_version, lineage_of
from recstill.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "data.train=4000", "seeds=[0]", "teacher.training.epochs=1", "teacher.options={dim: 4, bottom: [8], top: [16, 8]}",
    "student.training.epochs=1", "student.options={dim: 4, hidden: [8]}",
)  # fmt: skip


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A home with the synthetic data set and one finished quick run."""
    home = tmp_path_factory.mktemp("clicks")
    before = {name: os.environ.get(name) for name in ("RECSTILL_HOME", "RECSTILL_CACHE")}
    os.environ |= {"RECSTILL_HOME": str(home), "RECSTILL_CACHE": str(home / "cache")}
    platform = Platform.open(Settings.from_environment())
    fetch(platform.catalog("datasets")["synthetic-clicks"], platform.settings.cache)
    run_recipe(platform, "biased", QUICK)
    yield platform
    os.environ.update({name: value for name, value in before.items() if value is not None})


@pytest.fixture(autouse=True)
def environment(clicks: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSTILL_HOME", str(clicks.settings.home))
    monkeypatch.setenv("RECSTILL_CACHE", str(clicks.settings.cache.parent))


def problems(platform: Platform, *overrides: str, recipe: str = "biased") -> str:
    with pytest.raises(ConfigError) as caught:
        prepare_run(platform, *load_recipe(platform, recipe, [*QUICK, *overrides]), Progress())
    return "\n".join(caught.value.problems)


def strategy(name: str, **options: object) -> str:
    return f"distil.strategies={json.dumps([{'name': name, 'options': options}])}"


@pytest.mark.parametrize(("override", "words"), [
    (strategy("dkd"), "would spoil the calibration of the served head"),
    (strategy("hint", teacher_hidden="deep"), "teacher 'dlrm' gives no deep; it gives layer1, backbone"),
    (strategy("hint", student_hidden="deep"), "the student has no hidden vector 'deep'"),
    (strategy("attention-transfer"), "set distil.live: true"),
    (strategy("committee"), "needs two teachers or more"),
    (strategy("uncertainty-weighted", powre=2), "did you mean 'power'"),
    ("distil.unlabelled=true", "no rows of split `unlabelled`"),
    ("student.training.freeze=[embeddings]", "no module or parameter is named 'embeddings'; the model has"),
    ("teacher.checkpoints=[3]", "epoch 3 is after the last one"),
    (strategy("soft-target", loss="mse"), "distil.strategies.0.options.loss: it should be 'auto', 'kl', 'ce'"),
])  # fmt: skip
def test_conflicts_are_found_before_training(clicks: Platform, override: str, words: str) -> None:
    before = len(list((clicks.settings.home / "runs").iterdir()))
    assert words in problems(clicks, override)
    assert len(list((clicks.settings.home / "runs").iterdir())) == before


def test_dkd_on_a_binary_label_is_refused_where_calibration_is_no_matter(clicks: Platform) -> None:
    fetch(clicks.catalog("datasets")["ml-100k"], clicks.settings.cache, source=_films(clicks.settings.home / "films"))
    text = problems_of_films(clicks, strategy("dkd"))
    assert "needs a label with three classes or more" in text
    assert "needs the attribute 'wealth' of the rows; task 'films' offers knowledge, man, popularity" in problems_of_films(
        clicks, strategy("fairness", attribute="wealth")
    )
    assert "the rows have no 'rule'; give the recipe `rules`" in problems_of_films(clicks, strategy("posterior-regularisation"))
    rules = 'rules=[{when: "agee > 40", score: 1}, {when: "age > ", score: 1}]'
    wrong = problems_of_films(clicks, strategy("posterior-regularisation"), rules)
    assert "rules.0.when" in wrong
    assert "rules.1.when" in wrong


def test_rules_become_a_column_that_no_model_sees(clicks: Platform) -> None:
    rules = 'rules=[{when: "age > 40", score: 1}, {when: "occupation = \'writer\'", score: -0.5}]'
    run = prepare_run(clicks, *load_recipe(clicks, "films", [strategy("posterior-regularisation"), rules]), Progress())
    columns = run.snapshot.columns(["age", "occupation"])
    expected = (columns["age"] > 40) * 1.0 - (columns["occupation"] == "writer") * 0.5
    train = run.snapshot.rows_of("train")
    assert np.allclose(run.rows.tensors("student", "train").attributes["rule"].numpy(), expected[train])
    assert "rule" not in {feature.name for feature in run.rows.transform("student").features}


def problems_of_films(platform: Platform, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare_run(platform, *load_recipe(platform, "films", overrides), Progress())
    return "\n".join(caught.value.problems)


def _films(folder: Path) -> Path:
    """Ratings in the shape of ml-100k, made up: this test is about rules and refusals, not about quality."""
    random = np.random.default_rng(0)
    folder.mkdir()
    user, item = random.integers(1, 30, 600), random.integers(1, 40, 600)
    lines = [f"{u}\t{i}\t{random.integers(1, 6)}\t{881250949 + n}" for n, (u, i) in enumerate(zip(user, item, strict=True))]
    (folder / "inter.tsv").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "\n".join(lines))
    people = [f"{u}\t{20 + u}\t{'MF'[u % 2]}\t{['writer', 'other'][u % 2]}\t1" for u in range(1, 31)]
    head = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    (folder / "user.tsv").write_text(head + "\n".join(people))
    films = [f"{i}\tFilm {i}\t{1950 + i}\tDrama" for i in range(1, 41)]
    (folder / "item.tsv").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + "\n".join(films)
    )
    (folder / "link.tsv").write_text("item_id:token\tentity_id:token\n" + "\n".join(f"{i}\tm.{i}" for i in range(1, 41)))
    triples = [f"m.{i}\tgenre\tm.g{i % 5}" for i in range(1, 41)]
    (folder / "kg.tsv").write_text("head_id:token\trelation_id:token\ttail_id:token\n" + "\n".join(triples))
    return folder


def test_a_plan_names_stages_signals_parameters_time_and_memory_and_trains_nothing(clicks: Platform) -> None:
    with clicks.registry.transaction() as session:
        before = len(list_runs(session))
    stages = {stage.name: stage for stage in plan_recipe(clicks, "biased", [*QUICK, strategy("hint")])}
    assert list(stages) == ["pretrain", "teacher", "score", "alone-0", "distilled-0", "student"]
    assert stages["score"].signals == "logits, hidden:backbone"
    assert stages["distilled-0"].signals == "stored: hidden"
    assert stages["pretrain"].parameters > 1000
    assert stages["pretrain"].seconds > 0
    assert stages["pretrain"].megabytes > 0
    with clicks.registry.transaction() as session:
        assert len(list_runs(session)) == before
    shown = CliRunner().invoke(cli, ["run", "biased", "--dry-run", *[w for o in QUICK for w in ("--set", o)]])
    assert shown.exit_code == 0, shown.output
    assert "4,000 rows, batches of 512" in shown.output


def test_a_weight_that_starves_the_teacher_is_reported_with_the_ratio(clicks: Platform, capsys: pytest.CaptureFixture) -> None:
    run_recipe(clicks, "biased", [*QUICK, "distil.strategies=[{name: soft-target, weight: 0.00001}]"])
    said = capsys.readouterr().err
    assert "warning: soft-target starts at" in said
    assert "raise its weight about" in said


def test_frozen_modules_stay_as_they_are(clicks: Platform) -> None:
    from safetensors.torch import load_file

    overrides = [*QUICK, "student.training.freeze=[tables]", "student.training.epochs=2"]
    result = run_recipe(clicks, "biased", overrides)
    folder = clicks.settings.folder("runs", result.run_id, "weights")
    alone, distilled = (load_file(folder / f"{name}-0.safetensors") for name in ("alone", "distilled"))
    name = next(name for name in alone if name.endswith("embedding.weight"))
    assert alone[name].equal(distilled[name]), "both start from the same seed and never move"
    assert not alone["heads.linear.weight"].equal(distilled["heads.linear.weight"])


def test_weights_follow_a_schedule(clicks: Platform) -> None:
    weight = {"start": 5.0, "stop": 0.5, "shape": "exponential"}
    part = {"name": "soft-target", "weight": weight, "options": {"temperature": {"start": 4, "stop": 1}}}
    result = run_recipe(clicks, "biased", [*QUICK, f"distil.strategies={json.dumps([part])}"])
    with clicks.registry.transaction() as session:
        rows = lineage_of(session, find_version(session, result.student))
    details = next(row.details for row in rows if row.relation == "strategy")
    assert details["weight"] == {"start": 5.0, "stop": 0.5, "until": 1.0, "shape": "exponential"}


def test_a_student_may_teach_and_checkpoints_and_the_live_teacher_too(clicks: Platform) -> None:
    student = "{name: small-mlp, features: none, register_as: x, options: {dim: 4, hidden: [8]}, version: 'clicks:1'}"
    committee = run_recipe(clicks, "biased", [*QUICK, f"teachers=[{student}]", strategy("committee", gate="learned")])
    with clicks.registry.transaction() as session:
        rows = lineage_of(session, find_version(session, committee.student))
    assert [row.value for row in rows if row.relation == "teacher"] == [committee.teacher, "clicks:1"]
    path = run_recipe(
        clicks, "biased", [*QUICK, "teacher.training.epochs=2", "teacher.checkpoints=[1]", strategy("trajectory")]
    )
    stored = {row["signals"].split("/")[1] for row in list_signals(clicks, "clicks")}
    assert {path.teacher, f"{path.teacher}@1"} <= stored
    before = list_signals(clicks, "clicks")
    live = run_recipe(clicks, "biased", [*QUICK, "distil.live=true", strategy("hint")])
    assert live.teacher == committee.teacher, "the same teacher is trained and registered once"
    assert len(list_signals(clicks, "clicks")) == len(before), "a live teacher stores nothing"


def test_pruning_makes_the_student_smaller_and_recovers(clicks: Platform) -> None:
    from recstill.data.bundle import open_bundle

    overrides = ["student.options.hidden=[16, 8]", "prune={share: 0.5, recovery: {epochs: 1, batch_size: 512, bf16: false}}"]
    result = run_recipe(clicks, "biased", [*QUICK, *overrides])
    assert result.metrics["student pruned"]["training.parameters"] < result.metrics["student distilled"]["training.parameters"]
    state = json.loads((clicks.settings.folder("runs", result.run_id, "state") / "pruned-0.json").read_text())
    assert state["options"]["hidden"] == [8, 4]
    assert state["before_recovery"]["click.ne"] != state["metrics"]["click.ne"]
    with clicks.registry.transaction() as session:
        version = find_version(session, result.student)
    assert open_bundle(clicks.artifacts.get(version.artifact)).options["hidden"] == [8, 4]
    assert version.metrics["parity.max_difference"] < 1e-5
    words = "student 'two-tower' cannot be pruned"
    assert words in problems(clicks, *overrides[1:], "student.name=mmoe", "student.options={}").replace("mmoe", "two-tower")


def test_a_quantised_student_keeps_int8_tables_and_answers_as_it_did(clicks: Platform) -> None:
    from recstill.data.bundle import open_bundle
    from recstill.export.graph import load_weights

    overrides = ["student.options.hidden=[16, 8]", "quantise={recovery: {epochs: 1, batch_size: 512, bf16: false}}"]
    plain = run_recipe(clicks, "biased", [*QUICK, overrides[0]])
    result = run_recipe(clicks, "biased", [*QUICK, *overrides])
    state = json.loads((clicks.settings.folder("runs", result.run_id, "state") / "quantised-0.json").read_text())
    assert state["rounded_only"] != state["metrics"]
    assert abs(state["metrics"]["click.auc"] - result.metrics["student distilled"]["click.auc"][0]) < 0.02
    with clicks.registry.transaction() as session:
        version, before = (find_version(session, found.student) for found in (result, plain))
        assert ("quantise", "8 bits") in {(row.relation, row.value) for row in lineage_of(session, version)}
    folder = clicks.artifacts.get(version.artifact)
    open_bundle(folder)
    stored = load_weights(folder)["tables.embedding.weight"]
    assert str(stored.dtype) == "torch.int8"
    assert version.metrics["parity.max_difference"] < 1e-5
    assert version.size_bytes < before.size_bytes


def test_adapters_train_beside_a_frozen_student_that_they_start_from(clicks: Platform) -> None:
    from safetensors.torch import load_file

    base = run_recipe(clicks, "biased", [*QUICK, "student.register_as=base"])
    frozen = "student.training.freeze=[tables, 'body.linears.*.weight', 'body.linears.*.bias']"
    adapted = run_recipe(
        clicks,
        "biased",
        [*QUICK, f"student.start_from={base.student}", "student.options={dim: 4, hidden: [8], adapter_rank: 2}", frozen],
    )
    first, second = (
        load_file(clicks.settings.folder("runs", run.run_id, "weights") / "distilled-0.safetensors") for run in (base, adapted)
    )
    for name in ("tables.embedding.weight", "body.linears.0.weight", "body.linears.0.bias"):
        assert first[name].equal(second[name]), name
    assert second["body.linears.0.up"].any()
    with clicks.registry.transaction() as session:
        relations = {row.relation: row.value for row in lineage_of(session, find_version(session, adapted.student))}
    assert relations["start"] == base.student
    with pytest.raises(ConfigError, match=r"base:\d+ has .* in another shape"):
        run_recipe(clicks, "biased", [*QUICK, f"student.start_from={base.student}", "student.options={dim: 4, hidden: [6]}"])


def test_the_same_student_is_trained_once(clicks: Platform, capsys: pytest.CaptureFixture) -> None:
    result = run_recipe(clicks, "biased", [*QUICK, "teacher.register_as=other"])
    assert "alone-0 as in run" in capsys.readouterr().err
    with clicks.registry.transaction() as session:
        assert metrics_of(session, result.run_id)["student alone"]["training.cpu_seconds"][0] > 0


def test_signals_are_listed_shown_scored_and_collected(clicks: Platform) -> None:
    (reference,) = score_recipe(clicks, "biased", [*QUICK, "teacher.register_as=scored-only"], Progress())
    facts = show_signals(clicks, reference)
    assert facts["verified"] == "every part's sha256, and the snapshot's"
    assert (facts["coverage"], facts["sampling_rate"], facts["state"]) == ("0.118", 0.1, "complete")
    with pytest.raises(UnknownNameError, match="Did you mean"):
        show_signals(clicks, reference[:-1])
    orphan = clicks.settings.folder("signals") / "clicks" / "gone-9" / reference.split("/")[2]
    card = read_card(Path(facts["folder"]) / "signals.json")
    write_card(orphan / "signals.json", card | {"teacher": "gone:9", "parts": {}})
    listed = CliRunner().invoke(cli, ["signals", "list"])
    assert "teacher gone:9 is not registered" in listed.output
    unknown = CliRunner().invoke(cli, ["signals", "gc", "--yes", "--older-than", "0"])
    assert "teacher gone:9 is not registered, and never was here: it stays" in unknown.output
    assert orphan.is_dir()
    with clicks.registry.transaction() as session:  # as if it had been registered, and taken out since
        clicks.registry.audit(session, "version.add", "gone:9", artifact="")
    young = CliRunner().invoke(cli, ["signals", "gc", "--yes"])
    assert "it is new: it stays until it is 1 days old" in young.output
    assert orphan.is_dir()
    assert CliRunner().invoke(cli, ["signals", "gc", "--yes", "--older-than", "0"]).exit_code == 0
    assert not orphan.exists()
    assert Path(facts["folder"]).is_dir()


def test_thin_or_old_signals_are_refused(clicks: Platform) -> None:
    quick = [*QUICK, "teacher.version=clicks-teacher:1", "student.training.learning_rate=0.004"]
    run_recipe(clicks, "biased", quick)
    folder = next(clicks.settings.folder("signals").glob("clicks/clicks-teacher-1/*"))
    card = read_card(folder / "signals.json")
    old = json.loads(json.dumps(card))
    for part in old["parts"].values():
        part["scored_at"] = "2020-01-01T00:00:00+00:00"
    write_card(folder / "signals.json", old)
    with pytest.raises(DataError, match=r"days old, the recipe allows 30 \(max_age_days\)"):
        run_recipe(clicks, "biased", [*quick, "distil.max_age_days=30", "student.training.learning_rate=0.005"])
    write_card(folder / "signals.json", card)
    with pytest.raises(DataError, match=r"cover 100.0% of the training rows|unfinished"):
        write_card(folder / "signals.json", card | {"complete": False})
        from recstill.recipes.teaching import open_teachers

        run = prepare_run(clicks, *load_recipe(clicks, "biased", quick), Progress())
        open_teachers(run, {"clicks-teacher:1": ("teacher", "teacher")})
    write_card(folder / "signals.json", card)


def test_a_search_resumes_prunes_and_keeps_every_trial(clicks: Platform) -> None:
    overrides = [*QUICK, "student.training.epochs=3", "student.training.patience=3", "teacher.version=clicks-teacher:1"]
    first = tune(clicks, "biased", overrides, 2, None, Progress())
    assert [trial["state"] for trial in first.trials] == ["complete", "complete"]
    assert set(first.best) == {"0.weight", "0.temperature"}
    again = tune(clicks, "biased", overrides, 6, None, Progress())
    assert again.study == first.study
    assert again.trials[:2] == first.trials
    with clicks.registry.transaction() as session:
        rows = list_trials(session, again.study)
    assert [row.number for row in rows] == list(range(6))
    assert {row.state for row in rows} <= {"complete", "pruned"}
    assert again.best_score == max(max(row.scores) for row in rows if row.state == "complete")
    _, recipe = load_recipe(clicks, "biased", [*overrides, again.overrides.removeprefix("--set '").removesuffix("'")])
    assert recipe.distil.strategies[0].weight == pytest.approx(again.best["0.weight"])
    with pytest.raises(ConfigError, match="write PLACE.weight"):
        tune(clicks, "biased", overrides, 1, {"5.weight": (1, 2)}, Progress())


def test_a_search_in_two_calls_is_that_of_one_call(clicks: Platform, tmp_path: Path) -> None:
    overrides = [*QUICK, "teacher.version=clicks-teacher:1"]
    tune(clicks, "biased", overrides, 4, {"0.weight": (0.5, 20.0)}, Progress())
    twice = tune(clicks, "biased", overrides, 7, {"0.weight": (0.5, 20.0)}, Progress())
    renamed = tmp_path / "once.yaml"
    renamed.write_text(clicks.catalog("recipes")["biased"].read_text())
    once = tune(clicks, str(renamed), overrides, 7, {"0.weight": (0.5, 20.0)}, Progress())
    assert [trial["0.weight"] for trial in twice.trials] == [trial["0.weight"] for trial in once.trials]
    assert len({trial["0.weight"] for trial in twice.trials}) == 7


def test_trials_that_diverge_are_failed_trials_and_a_search_of_them_ends(clicks: Platform) -> None:
    wild = ["student.training.learning_rate=1e30", "student.training.table_learning_rate=1e30"]
    overrides = [*QUICK, *wild, "teacher.version=clicks-teacher:1"]
    for num_trials in (2, 3):  # called again it goes on, and ends again
        with pytest.raises(ConfigError, match="no trial came to its end"):
            tune(clicks, "biased", overrides, num_trials, {"0.weight": (0.1, 10.0)}, Progress())
        with clicks.registry.transaction() as session:
            run = next(row for row in list_runs(session) if row.recipe.startswith("tune"))
            rows = list_trials(session, run.recipe.removeprefix("tune "))
        assert run.status == "failed"
        assert "no trial came to its end" in run.error
        assert [row.state for row in rows] == ["failed"] * num_trials
        assert all(row.error for row in rows)


def test_a_search_is_checked_before_its_teacher_trains(clicks: Platform) -> None:
    with clicks.registry.transaction() as session:
        before = len(list_runs(session))
    with pytest.raises(ConfigError, match="unknown option"):
        tune(clicks, "biased", QUICK, 1, {"0.nothing": (1.0, 2.0)}, Progress())
    with pytest.raises(ConfigError, match="student.training.epochs is 0"):
        tune(clicks, "biased", [*QUICK, "student.training.epochs=0"], 1, None, Progress())
    run = prepare_run(clicks, *load_recipe(clicks, "biased", QUICK), Progress())
    space = {"0.weight": (1.0, 2.0)}
    lock = FileLock(clicks.settings.folder("locks") / f"tune-{name_of(run, space)}.lock")
    with lock, pytest.raises(RegistryError, match="is being worked on by another process"):
        tune(clicks, "biased", QUICK, 1, space, Progress())
    with clicks.registry.transaction() as session:
        assert len(list_runs(session)) == before


def test_a_search_killed_within_a_trial_goes_on_with_it(clicks: Platform) -> None:
    overrides = [
        *QUICK,
        "data.train=20000",
        "student.training.epochs=30",
        "student.training.patience=30",
        "student.training.batch_size=64",
    ]
    command = [
        sys.executable,
        "-m",
        "recstill",
        "tune",
        "biased",
        "--trials",
        "1",
        *[w for o in overrides for w in ("--set", o)],
    ]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "trial-0 epoch 2/" in line:
            process.kill()
            break
    process.wait()
    found = tune(clicks, "biased", overrides, 1, None, Progress())
    assert [trial["trial"] for trial in found.trials] == [0]
    assert found.trials[0]["state"] == "complete"


def test_a_sweep_writes_a_table_and_a_page_and_does_not_repeat_itself(clicks: Platform, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    content = {
        "name": "small", "title": "Two weights", "recipe": "biased", "set": [*QUICK, "seeds=[0, 1]"],
        "variants": {"light": ["distil.strategies=[{name: soft-target, weight: 0.1}]"], "heavy": [strategy("soft-target")]},
        "metrics": ["click.auc", "click.calibration"],
        "claims": [
            {"text": "AUC is a number", "variant": "heavy", "metric": "click.auc", "at_least": 0.0, "at_most": 1.0},
            {"text": "no such slice", "variant": "heavy", "metric": "slices.day.9", "at_most": 1.0},
            {"text": "efficiency of no gap", "variant": "heavy", "subject": "transfer", "metric": "efficiency", "at_most": 9.0},
        ],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    result = run_sweep(clicks, path, tmp_path / "out", Progress())
    stored = json.loads((tmp_path / "out" / "small.json").read_text())
    assert [row["variant"] for row in stored["rows"]] == ["light", "heavy"]
    assert stored["rows"][0]["teacher"] == stored["rows"][1]["teacher"], "the teacher is trained once"
    assert [claim["met"] for claim in stored["claims"]] == [True, False, False]
    assert all(claim["measured"].startswith("undefined: ") for claim in stored["claims"][1:])
    assert stored["rows"][1]["subjects"]["transfer"]["efficiency"][0] is None
    assert "NaN" not in (tmp_path / "out" / "small.json").read_text()
    assert [row["what"] for row in table_of(result)] == ["teacher", "student alone", "light", "heavy"]
    assert "Two weights" in (tmp_path / "out" / "small.html").read_text()
    with clicks.registry.transaction() as session:
        before = len(list_runs(session))
    assert run_sweep(clicks, path, tmp_path / "out", Progress())["rows"] == result["rows"]
    with clicks.registry.transaction() as session:
        assert len(list_runs(session)) == before
    (tmp_path / "bad.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match="variants"):
        load_experiment(tmp_path / "bad.yaml")
