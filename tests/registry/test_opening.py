"""What a registry may be opened on, and what is said where it may not."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from registry_rows import add, put_artifact, settings_in
from sqlalchemy import create_engine, make_url, text

import recstill.registry.connecting
import recstill.registry.schema
from recstill.api import RegistryError
from recstill.api.errors import ConfigError
from recstill.registry import open_registry
from recstill.registry.address import shown, without_secrets
from recstill.registry.versions import list_versions
from recstill.settings import Settings


def test_the_newest_revision_is_alembics_only_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(recstill.registry.schema.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [recstill.registry.schema.HEAD]


def test_a_fresh_home_just_works(settings: Settings) -> None:
    assert open_registry(settings).is_new
    assert not open_registry(settings).is_new


def test_a_newer_registry_is_said_to_be_newer(settings: Settings) -> None:
    with open_registry(settings).engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '0999'"))
    with pytest.raises(RegistryError, match=r"made by a newer recstill \(schema 0999, this one knows 0.*upgrade"):
        open_registry(settings)


def test_tables_of_something_else_are_left_alone(settings: Settings) -> None:
    engine = create_engine(settings.registry_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("create table alembic_version (version_num varchar(32))"))
        connection.execute(text("create table experiments (id integer)"))
    with pytest.raises(RegistryError, match="is no registry of recstill: it holds the tables alembic_version, experiments"):
        open_registry(settings)
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from alembic_version")).scalar() == 0


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        ("runs/ads-1/run.json", "1 runs"),
        ("snapshots/ads-1/snapshot.json", "1 snapshots"),
        ("signals/ads/ads-teacher:1/ads-1/signals.json", "1 sets of signals"),
        ("decisions/20260101-x.jsonl", "1 decision logs"),
        ("feast/registry.db", "a feature registry"),
        (f"artifacts/ab/{'ab' * 32}/manifest.json", "1 artifacts"),
    ],
)
def test_an_empty_database_beside_files_of_an_earlier_one_is_refused(settings: Settings, trace: str, words: str) -> None:
    path = settings.home / trace
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(
        RegistryError, match=f"holds {words} .*recstill restore FILE.*recstill registry init --yes".replace(" .*", ".*")
    ):
        open_registry(settings)
    assert open_registry(settings, anew=True).is_new
    assert not open_registry(settings).is_new


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")], ids=["missing", "empty"])
def test_a_lost_file_is_not_made_anew(tmp_path: Path, damage: object) -> None:
    registry = open_registry(settings_in(tmp_path))
    put_artifact(registry, "x")
    registry.engine.dispose()
    damage(tmp_path / "registry.db")  # type: ignore[operator]
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RegistryError, match="holds 1 artifacts"):
        open_registry(settings_in(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_log_of_a_lost_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "registry.db-wal").write_bytes(b"changes that were not written back")
    with pytest.raises(RegistryError, match="its log registry.db-wal is not"):
        open_registry(settings_in(tmp_path))
    assert (tmp_path / "registry.db-wal").read_bytes() == b"changes that were not written back"


@pytest.mark.parametrize("content", [b"this is no database, but long enough" * 200, b"short"])
def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "registry.db").write_bytes(content)
    with pytest.raises(RegistryError, match="is damaged or no database.*recstill restore"):
        open_registry(settings_in(tmp_path))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("junk", "is no address of a database"),
        ("postgresql://u:secret@host:99x/db", "is no address of a database"),
        ("postgresql://u:p@secret@host/db", "holds a bare '@'"),
        ("mysql://u:secret@host/db", "in SQLite or PostgreSQL, not in 'mysql'"),
        ("postgresql+asyncpg://u:secret@host/db", "through psycopg"),
        ("sqlite://", "is a file"),
        ("sqlite:///:memory:", "is a file"),
        ("sqlite:////tmp/what?x=1/registry.db", "begins options"),
        ("postgresql://u:secret@127.0.0.1:1/db", "cannot be reached"),
        ("postgres://u@127.0.0.1:1/db?password=secret", "cannot be reached"),
        ("postgresql://u:secret@127.0.0.1:1/db?no_such_option=1", "cannot be reached.*no_such_option"),
    ],
)
def test_a_bad_address_is_an_error_without_its_password(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(RegistryError, match=words) as caught:
        open_registry(settings_in(tmp_path, url))
    assert "secret" not in str(caught.value)


def test_passwords_are_shown_nowhere() -> None:
    url = make_url("postgresql+psycopg://u:secret@h/d?password=secret&sslpassword=secret&connect_timeout=3")
    assert shown(url) == "postgresql+psycopg://u:***@h/d?connect_timeout=3"
    assert without_secrets("no secret for you", url) == "no *** for you"


@pytest.mark.parametrize("url", ["nope://secret@x", "s3://secret@x"])
def test_a_store_of_artifacts_that_is_not_known_is_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(RegistryError, match="RECSTILL_ARTIFACTS_URL cannot be used") as caught:
        open_registry(replace(settings_in(tmp_path), artifacts_url=url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "a#b", "100%", "a%20b", "ä", "a'b", "a[b]c", "a*b", "a&b=c;d", "a:b@c"])
def test_a_home_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("RECSTILL_HOME", str(tmp_path / name))
    open_registry(Settings.from_environment())
    assert (tmp_path / name / "registry.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_question_mark_in_a_home_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSTILL_HOME", str(tmp_path / "what?x=1"))
    with pytest.raises(ConfigError, match="without one"):
        Settings.from_environment()


@pytest.mark.parametrize("nothing", ["", " "])
def test_a_variable_set_to_nothing_counts_as_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RECSTILL_HOME", "RECSTILL_REGISTRY_URL", "RECSTILL_ARTIFACTS_URL", "RECSTILL_FEATURE_REPO"):
        monkeypatch.setenv(name, nothing)
    settings = Settings.from_environment()
    home = tmp_path / ".recstill"
    assert (settings.home, settings.artifacts_url) == (home, str(home / "artifacts"))
    open_registry(settings)
    assert [path.name for path in tmp_path.iterdir()] == [".recstill"]
    assert (home / "registry.db").is_file()


def test_reading_waits_for_no_writer_and_cannot_write(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = open_registry(settings)
    with registry.transaction() as session:
        add(registry, session, "a")
    with registry.transaction() as writer:
        add(registry, writer, "b")
        with registry.read() as session:  # what is not committed is not seen
            assert [version.number for version in list_versions(session)] == [1]
    with pytest.raises(RegistryError, match="read-only"), registry.read() as session:
        add(registry, session, "c")


def test_a_busy_registry_is_said_to_be_busy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recstill.registry.connecting, "BUSY_SECONDS", 1)
    registry, other = open_registry(settings), open_registry(settings)
    with registry.transaction() as session:
        add(registry, session, "a")
        with pytest.raises(RegistryError, match=r"is busy.*call again"), other.transaction():
            pass
    with other.read() as session:
        assert len(list_versions(session)) == 1


_READ = """
import os, sys
from pathlib import Path
from recstill.registry import open_registry
from recstill.registry.versions import list_versions
from recstill.settings import Settings
def settings_in(home):
    return Settings(home, f"sqlite:///{home / 'registry.db'}", str(home / "artifacts"), home)
open_registry(settings_in(Path(sys.argv[2])))  # imports everything while it can
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
registry = open_registry(settings_in(Path(sys.argv[1])))
with registry.read() as session:
    print([version.number for version in list_versions(session)])
try:
    with registry.transaction() as session:
        registry.audit(session, "test", "x")
    print("written")
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("with_log", [False, True], ids=["settled", "with a log"])
def test_a_read_only_home_can_be_read(tmp_path_factory: pytest.TempPathFactory, with_log: bool) -> None:
    home = tmp_path_factory.mktemp("read-only") / "home"
    home.mkdir()
    registry = open_registry(settings_in(home))
    with registry.transaction() as session:
        add(registry, session, "a")
    if not with_log:
        registry.engine.dispose()
    assert (home / "registry.db-wal").exists() == with_log
    shown = Path("/tmp") / f"recstill-read-only-{os.getpid()}-{with_log}"
    shutil.copytree(home, shown)
    try:
        for path in (shown, *shown.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        command = [sys.executable, "-c", _READ, str(shown), str(home.parent / "other")]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.stdout.startswith("[1]"), found.stderr
        assert "cannot be written: the file, its folder or the server is read-only" in found.stdout
    finally:
        for path in (shown, *shown.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(shown)


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    registry = open_registry(settings_in(tmp_path))
    with registry.engine.connect() as connection:
        size = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @recstill.registry.connecting.event.listens_for(registry.engine, "checkout")
    def _limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={size}")  # SQLite's own word for a disk with no room

    with pytest.raises(RegistryError, match="its disk is full. Nothing was changed"), registry.transaction() as session:
        registry.audit(session, "test", "x" * 100_000)


def test_text_that_is_no_utf8_is_refused(settings: Settings) -> None:
    registry = open_registry(settings)
    with pytest.raises(RegistryError, match="no valid UTF-8"), registry.read() as session:
        list_versions(session, "ads\udcff")


def test_a_server_that_stops_is_an_error_with_a_way_out(settings: Settings) -> None:
    missing = replace(settings, registry_url="postgresql://u@/db?host=/nowhere")
    with pytest.raises(RegistryError, match="cannot be reached.*and the server"):
        open_registry(missing)
