"""The registry's rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from registry_rows import add, put_artifact, settings_in
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DatabaseError
from sqlmodel import SQLModel

from recstill.api import RegistryError, UnknownNameError
from recstill.api.measured import Undefined
from recstill.registry import Registry, open_registry
from recstill.registry.audit import list_audit
from recstill.registry.models import RunRow
from recstill.registry.runs import add_run, get_run, metrics_of, record_feature_set, record_metrics
from recstill.registry.trials import list_trials
from recstill.registry.versions import (
    AliasMovedError,
    NewVersion,
    add_version,
    aliases_of,
    find_version,
    list_versions,
    roll_back,
    set_alias,
)
from recstill.settings import Settings


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(settings_in(tmp_path))


def test_versions_count_up_and_a_run_registers_once(registry: Registry) -> None:
    with registry.transaction() as session:
        assert [add(registry, session, run) for run in ("a", "b")] == [1, 2]
        features = record_feature_set(session, {"service": "s", "fingerprint": "f", "views": []})
        again = add_version(registry, session, NewVersion("ads", "ads", "a", "other", 1, 1, features, {}))
        assert again.number == 1
        assert len(list_versions(session)) == 2


def test_a_version_whose_artifact_is_gone_is_not_registered(registry: Registry) -> None:
    digest = put_artifact(registry, "a bundle")
    registry.artifacts.delete(f"{digest[:2]}/{digest}")  # as garbage, between storing and registering
    with pytest.raises(RegistryError, match=f"{digest[:12]} is not stored"), registry.transaction() as session:
        add_run(session, "a", "r", "ads", {})
        features = record_feature_set(session, {"service": "s", "fingerprint": "f", "views": []})
        add_version(registry, session, NewVersion("ads", "ads", "a", digest, 1, 1, features, {}))
    with registry.read() as session:
        assert list_versions(session) == []


def test_names_of_versions(registry: Registry) -> None:
    with registry.transaction() as session:
        add(registry, session, "a")
        add(registry, session, "b")
        set_alias(registry, session, find_version(session, "ads:2"), "champion", reason="")
        assert find_version(session, "ads@champion").number == find_version(session, "ads").number == 2
        for wrong, words in [
            ("adz:1", "Did you mean 'ads'"),
            ("ads:9", "Known: 1, 2"),
            ("ads@champoin", "Did you mean 'champion'"),
        ]:
            with pytest.raises(UnknownNameError, match=words):
                find_version(session, wrong)
        for wrong in ("ads 7", "ads:١", "ads:99999999999999999999", "ads:1\n", "ads:", "@champion", ""):
            with pytest.raises(RegistryError, match="names no version"):
                find_version(session, wrong)


def test_promotion_leaves_previous_behind_and_rollback_swaps(registry: Registry) -> None:
    with registry.transaction() as session:
        for run in ("a", "b"):
            number = add(registry, session, run)
            set_alias(registry, session, find_version(session, f"ads:{number}"), "champion", reason="better")
        assert aliases_of(session, "ads") == {"champion": 2, "previous": 1}
        assert roll_back(registry, session, "ads") == (1, 2)
        assert aliases_of(session, "ads") == {"champion": 1, "previous": 2}
        actions = [row.action for row in list_audit(session, "ads")]
        assert actions == ["alias.rollback", "alias.set", "version.add", "alias.set", "version.add"]


@pytest.mark.parametrize("alias", ["latest", "v3", "a b", "", "Champion", "champion\n", "chämpion", "-x", "a/b", "a:b"])
def test_reserved_aliases_are_refused(registry: Registry, alias: str) -> None:
    with registry.transaction() as session:
        add(registry, session, "a")
        with pytest.raises(RegistryError, match="cannot be an alias"):
            set_alias(registry, session, find_version(session, "ads:1"), alias, reason="")


def test_an_alias_is_moved_only_from_what_it_was_judged_against(registry: Registry) -> None:
    with registry.transaction() as session:
        for run in ("a", "b", "c"):
            add(registry, session, run)
        first, second, third = (find_version(session, f"ads:{number}") for number in (1, 2, 3))
        set_alias(registry, session, first, "champion", reason="", expected=None)
        set_alias(registry, session, second, "champion", reason="", expected=1)
        with pytest.raises(AliasMovedError, match="moved meanwhile, to 2: ads:3 was judged beside 1"):
            set_alias(registry, session, third, "champion", reason="", expected=1)
        with pytest.raises(AliasMovedError, match="judged beside nothing"):
            set_alias(registry, session, third, "champion", reason="", expected=None)
        assert aliases_of(session, "ads") == {"champion": 2, "previous": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_null_in_every_json_column(settings: Settings, value: float) -> None:
    registry = open_registry(settings)
    with registry.transaction() as session:
        session.add(RunRow(id="a", recipe="r", task="t", config={"deep": [{"x": value, "y": 1.5}], "z": (value, "text", None)}))
        registry.audit(session, "test", "x", found=value)
    with registry.read() as session:
        assert get_run(session, "a").config == {"deep": [{"x": None, "y": 1.5}], "z": [None, "text", None]}
        assert list_audit(session)[0].details == {"found": None}


def test_subjects_of_the_audit_log_are_taken_as_they_are_written(registry: Registry) -> None:
    with registry.transaction() as session:
        for subject in ("ads_b@champion", "adsxb@champion", "100%"):
            registry.audit(session, "test", subject)
    with registry.read() as session:
        assert [row.subject for row in list_audit(session, "ads_")] == ["ads_b@champion"]
        assert [row.subject for row in list_audit(session, "100%")] == ["100%"]
        assert list_audit(session, "%") == []


def test_a_failed_transaction_leaves_nothing(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError), registry.transaction() as session:
        add(registry, session, "a")
        raise ZeroDivisionError
    with registry.transaction() as session:
        assert list_versions(session) == []
        assert list_audit(session) == []


_REPLACE = "insert or replace into audit (id, at, actor, action, subject, details) values (1, '2026-01-01', 'x', 'x', 'x', '1')"
_REWRITES = [("sqlite", "update audit set actor = 'x'"), ("sqlite", "delete from audit"), ("sqlite", _REPLACE)]
_REWRITES += [("postgres", words) for words in ("update audit set actor = 'x'", "delete from audit", "truncate audit")]


@pytest.mark.parametrize(("settings", "statement"), _REWRITES, indirect=["settings"])
def test_the_audit_log_cannot_be_rewritten(settings: Settings, statement: str) -> None:
    registry = open_registry(settings)
    with registry.transaction() as session:
        registry.audit(session, "test", "x")
    with pytest.raises(DatabaseError, match="append-only"), registry.transaction() as session:
        session.execute(text(statement))


def test_migrations_make_the_tables_of_the_models(registry: Registry) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with registry.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
    assert [d for d in differences if "modify" not in str(d[0])] == []


def test_metrics_are_replaced_not_doubled(registry: Registry) -> None:
    with registry.transaction() as session:
        add_run(session, "ads-1", "r", "ads", {})
        session.flush()
        for value in (0.5, 0.6):
            record_metrics(session, "ads-1", "student", {"auc": (value, 0.01, 3)})
            session.flush()
        assert metrics_of(session, "ads-1") == {"student": {"auc": (0.6, 0.01, 3)}}
        assert get_run(session, "ads").id == "ads-1"


def test_an_undefined_metric_is_null_with_its_reason(registry: Registry) -> None:
    values = {"auc": ("one class only", 0.0, 2), "ne": (float("nan"), 0.0, 2), "gauc": (Undefined("no group"), 0.0, 1)}
    spreads = {"nan": (0.5, float("nan"), 2), "inf": (0.5, float("inf"), 2), "both": ("no row", float("nan"), 2)}
    with registry.transaction() as session:
        add_run(session, "other-1", "r", "ads", {})
        session.flush()
        record_metrics(session, "other-1", "student", spreads)
        assert metrics_of(session, "other-1")["student"] == {
            "nan": ("of its spread, it is not a finite number", 0.0, 2),
            "inf": ("of its spread, it is not a finite number", 0.0, 2),
            "both": ("no row", 0.0, 2),
        }
    with registry.transaction() as session:
        add_run(session, "ads-1", "r", "ads", {})
        session.flush()
        record_metrics(session, "ads-1", "student", {**values, "mrr": (0.5, 0.1, 2)})
        found = metrics_of(session, "ads-1")["student"]
        stored = session.execute(text("select name, value, reason from metric where run_id = 'ads-1' order by name")).all()
    assert found["auc"] == ("one class only", 0.0, 2)
    assert found["ne"][0] == "it is not a finite number"
    assert found["mrr"] == (0.5, 0.1, 2)
    assert [tuple(row) for row in stored] == [
        ("auc", None, "one class only"),
        ("gauc", None, "no group"),
        ("mrr", 0.5, ""),
        ("ne", None, "it is not a finite number"),
    ]


@pytest.mark.parametrize("server", ["sqlite", "postgres"])
def test_a_registry_with_nan_of_earlier_versions_is_migrated(
    server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = settings_in(tmp_path)
    if server == "postgres":  # its JSON never held NaN, but the steps must run there too
        settings = replace(settings, registry_url=request.getfixturevalue("postgres_url"))
    kind, missing = ("json", "null") if server == "postgres" else ("text", "NaN")
    values = {"metrics": f'{{"auc": {missing}, "ne": 0.9}}', "scores": f"[0.5, {missing}]"}
    engine = _at_revision(settings, "0003")
    with engine.begin() as connection:
        for statement in _OLD_ROWS:
            connection.execute(text(statement.replace(" as kind", f" as {kind}")), values)
    engine.dispose()
    with open_registry(settings).transaction() as session:
        version = find_version(session, "ads:1")
        assert version.measured == {"auc": "it was not a number when it was stored", "ne": 0.9}
        assert version.baselines == {}
        assert [(row.state, row.scores) for row in list_trials(session, "s")] == [("failed", [0.5, None])]
        assert metrics_of(session, "r") == {"student": {"auc": (0.7, 0.0, 1)}}


_NOW = "'2026-01-01 00:00:00'"
_OLD_ROWS = (
    "insert into run (id, recipe, task, status, error, config, report, verdict, started_at) "
    f"values ('r', 'r', 'ads', 'finished', '', '{{}}', '', '', {_NOW})",
    f"insert into model (name, task, created_at) values ('ads', 'ads', {_NOW})",
    f"insert into artifact (digest, kind, size_bytes, created_at) values ('d', 'bundle', 1, {_NOW})",
    f"insert into feature_set (id, service, fingerprint, content, created_at) values (1, 's', 'f', '{{}}', {_NOW})",
    "insert into version (id, model_name, number, run_id, artifact, feature_set_id, num_parameters, size_bytes, metrics, "
    f"created_at) values (1, 'ads', 1, 'r', 'd', 1, 1, 1, cast(:metrics as kind), {_NOW})",
    "insert into metric (run_id, subject, name, value, spread, num_seeds) values ('r', 'student', 'auc', 0.7, 0.0, 1)",
    "insert into trial (study, number, run_id, state, params, scores, started_at) "
    f"values ('s', 0, 'r', 'complete', '{{}}', cast(:scores as kind), {_NOW})",
)


def _at_revision(settings: Settings, revision: str) -> Engine:
    """Return an engine on a registry as an earlier version of recstill left it."""
    import recstill.registry

    engine = create_engine(settings.registry_url)
    config = Config()
    config.set_main_option("script_location", str(Path(recstill.registry.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine
