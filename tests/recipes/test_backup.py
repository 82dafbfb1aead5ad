"""Backups: of one moment, whole, and brought back as they were."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from recstill.api.errors import RecstillError, RegistryError
from recstill.data.files import sha256_of
from recstill.recipes.backup import write_backup
from recstill.recipes.platform import Platform
from recstill.recipes.release import verify_versions
from recstill.recipes.restoring import restore_backup
from recstill.registry.audit import list_audit
from recstill.registry.runs import list_runs
from recstill.registry.versions import aliases_of, find_version, list_versions, set_alias
from recstill.settings import Settings


def elsewhere(settings: Settings, home: Path) -> Settings:
    return replace(settings, home=home, registry_url=f"sqlite:///{home / 'registry.db'}", artifacts_url=str(home / "artifacts"))


def known(settings: Settings) -> dict[str, Any]:
    """What a registry says, for comparing."""
    platform = Platform.open(settings)
    with platform.registry.read() as session:
        return {
            "versions": [(row.model_name, row.number, row.artifact, row.metrics) for row in list_versions(session)],
            "aliases": aliases_of(session, "ads"),
            "runs": [(row.id, row.status, row.verdict, row.started_at) for row in list_runs(session)],
            "audit": [(row.id, row.at, row.action, row.subject, row.details) for row in list_audit(session, limit=1000)],
            "verified": [row["state"] for row in verify_versions(platform, None)],
        }


def files_of(home: Path, *folders: str) -> dict[str, str]:
    paths = [path for folder in folders for path in (home / folder).rglob("*")]
    return {str(p.relative_to(home)): sha256_of(p) for p in paths if p.is_file() and p.name[0] != "." and p.suffix != ".lock"}


def _change_and_die(settings: Settings) -> None:
    registry = Platform.open(settings).registry
    for number in range(30):
        with registry.transaction() as session:
            set_alias(registry, session, find_version(session, "ads:1"), f"alias-{number}", reason="x" * 500)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_backup_brings_everything_back_with_the_changes_that_a_killed_writer_left(
    home_copy: Settings, tmp_path: Path
) -> None:
    (home_copy.home / "decisions").mkdir(exist_ok=True)
    (home_copy.home / "decisions" / "mask.key").write_bytes(b"secret")
    with Platform.open(home_copy).registry.transaction() as session:
        [run] = list_runs(session)
        run.report = str(home_copy.home / "runs" / run.id / "report.html")
        session.add(run)
    writer = multiprocessing.get_context("fork").Process(target=_change_and_die, args=(home_copy,))
    writer.start()
    writer.join()
    assert (home_copy.home / "registry.db-wal").stat().st_size > 0
    found = write_backup(Platform.open(home_copy), tmp_path / "all.tar")
    assert (tmp_path / "all.tar").stat().st_mode & 0o777 == 0o600
    assert found["artifacts"] == 2
    before = known(home_copy)
    assert len(before["aliases"]) == 30

    new = elsewhere(home_copy, tmp_path / "new" / "home")
    assert restore_backup(new, tmp_path / "all.tar")["damaged"] == []
    assert known(new) == before
    kept = ("snapshots", "signals", "runs", "sources", "online", "decisions")
    assert files_of(new.home, *kept) == files_of(home_copy.home, *kept)
    for name in ("registry.db", "online.db"):
        with closing(sqlite3.connect(new.home / "feast" / name)) as connection:
            assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    with Platform.open(new).registry.read() as session:
        assert [row.report for row in list_runs(session)] == [str(new.home / "runs" / run.id / "report.html")]
        assert (new.home / "runs" / run.id / "report.html").is_file()


def test_what_is_there_is_not_replaced_but_moved_aside_when_asked_to(home_copy: Settings, tmp_path: Path) -> None:
    write_backup(Platform.open(home_copy), tmp_path / "all.tar")
    before = known(home_copy)
    with pytest.raises(RegistryError, match="exists already"):
        write_backup(Platform.open(home_copy), tmp_path / "all.tar")
    with pytest.raises(RegistryError, match="lies in"):
        write_backup(Platform.open(home_copy), home_copy.home / "all.tar")
    with pytest.raises(RegistryError, match="would be replaced.*--force"):
        restore_backup(home_copy, tmp_path / "all.tar")
    (home_copy.home / "registry.db").write_bytes(b"")  # damage, which a copy of the file alone would not mend
    [aside] = restore_backup(home_copy, tmp_path / "all.tar", force=True)["moved aside"]
    assert (Path(aside) / "registry.db").read_bytes() == b""
    assert known(home_copy) == before


def test_a_version_whose_files_are_damaged_is_named_before_anything_is_written(home_copy: Settings, tmp_path: Path) -> None:
    platform = Platform.open(home_copy)
    with platform.registry.read() as session:
        artifact = find_version(session, "ads:1").artifact
    platform.artifacts.delete(f"{artifact[:2]}/{artifact}")
    with pytest.raises(RegistryError, match=r"ads:1: the artifact is damaged or missing.*--with-damage"):
        write_backup(platform, tmp_path / "all.tar")
    assert list(tmp_path.glob("*.tar")) == list(tmp_path.glob(".*.tar*")) == []
    assert write_backup(platform, tmp_path / "all.tar", with_damage=True)["damaged"] == ["ads:1"]
    assert restore_backup(elsewhere(home_copy, tmp_path / "new"), tmp_path / "all.tar")["damaged"] == ["ads:1"]


@pytest.fixture
def small_backup(tmp_path: Path, empty_home: Settings) -> Path:
    """A backup of a home in which little was done."""
    platform = Platform.open(empty_home)
    (empty_home.home / "runs" / "ads-1").mkdir(parents=True)
    (empty_home.home / "runs" / "ads-1" / "run.json").write_text("{}" * 500)
    write_backup(platform, tmp_path / "small.tar")
    return tmp_path / "small.tar"


def test_a_backup_that_was_cut_or_changed_is_refused_and_nothing_is_touched(
    small_backup: Path, empty_home: Settings, tmp_path: Path
) -> None:
    content, draw = small_backup.read_bytes(), random.Random(0)
    with tarfile.open(small_backup) as tar:
        ends = [(member.offset_data, member.offset_data + member.size) for member in tar.getmembers()]
    broken = [content[: draw.randrange(len(content) - 12_000)] for _ in range(10)]
    for place in [draw.randrange(*draw.choice(ends)) for _ in range(60)] + [draw.randrange(512) for _ in range(20)]:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        broken.append(bytes(changed))
    target = elsewhere(empty_home, tmp_path / "new")
    harmless = 0
    for data in broken:
        path = tmp_path / "broken.tar"
        path.write_bytes(data)
        words = _refusal(target, path)
        if words:
            assert str(path) in words
            assert not target.home.exists()
        else:  # a bit that tar itself does not look at
            harmless += 1
            assert (target.home / "registry.db").read_bytes() == _member(content, "registry.db", tmp_path)
            shutil.rmtree(target.home)
    assert harmless <= 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def _refusal(target: Settings, path: Path) -> str:
    try:
        restore_backup(target, path)
    except RecstillError as error:
        return str(error)
    return ""


def _member(content: bytes, name: str, folder: Path) -> bytes:
    (folder / "whole.tar").write_bytes(content)
    with tarfile.open(folder / "whole.tar") as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def test_a_tar_of_something_else_is_no_backup(empty_home: Settings, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "x", "../../escaped")
    for path in (tmp_path / "other.tar", tmp_path / "x"):
        with pytest.raises(RecstillError, match="backup"):
            restore_backup(empty_home, path)
    assert not (tmp_path / "escaped").exists()


def test_a_registry_on_a_server_is_backed_up_and_brought_back(home_copy: Settings, postgres_url: str, tmp_path: Path) -> None:
    write_backup(Platform.open(home_copy), tmp_path / "all.tar")
    before = known(home_copy)
    on_server = replace(elsewhere(home_copy, tmp_path / "server"), registry_url=postgres_url)
    restore_backup(on_server, tmp_path / "all.tar")
    assert _without_zones(known(on_server)) == before
    platform = Platform.open(on_server)
    with platform.registry.transaction() as session:  # ids go on after those that were brought back
        set_alias(platform.registry, session, find_version(session, "ads:1"), "shadow", reason="")
    write_backup(platform, tmp_path / "again.tar")
    with pytest.raises(RegistryError, match="is not empty"):
        restore_backup(replace(on_server, home=tmp_path / "third"), tmp_path / "again.tar")
    assert not (tmp_path / "third").exists()
    back = elsewhere(home_copy, tmp_path / "back")
    restore_backup(back, tmp_path / "again.tar")
    assert known(back) == _without_zones(known(on_server))
    with create_engine(postgres_url).connect() as connection:
        assert connection.execute(text("select count(*) from audit")).scalar() == len(before["audit"]) + 1


def _without_zones(found: dict[str, Any]) -> dict[str, Any]:
    """SQLite gives times without their zone."""
    runs = [(*row[:3], row[3].replace(tzinfo=None)) for row in found["runs"]]
    audit = [(row[0], row[1].replace(tzinfo=None), *row[2:]) for row in found["audit"]]
    return {**found, "runs": runs, "audit": audit}


def _promote_on_and_on(settings: Settings, stop: Any) -> None:
    registry = Platform.open(settings).registry
    number = 0
    while not stop.is_set():
        number += 1
        with registry.transaction() as session:
            set_alias(registry, session, find_version(session, "ads:1"), f"alias-{number}", reason="")


def test_a_backup_beside_a_writer_is_of_one_moment(home_copy: Settings, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    writer = context.Process(target=_promote_on_and_on, args=(home_copy, stop))
    writer.start()
    try:
        for number in range(3):
            write_backup(Platform.open(home_copy), tmp_path / f"{number}.tar")
    finally:
        stop.set()
        writer.join()
    for number in range(3):
        new = elsewhere(home_copy, tmp_path / f"new-{number}")
        restore_backup(new, tmp_path / f"{number}.tar")
        found = known(new)
        assert found["verified"] == ["ok", "ok"]
        assert len(found["aliases"]) == len([row for row in found["audit"] if row[2] == "alias.set"])


@pytest.mark.parametrize("content", [b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_of_the_home_is_named_or_kept_byte_by_byte(content: bytes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    own = Settings(home, f"sqlite:///{home / 'registry.db'}", str(home / "artifacts"), tmp_path)
    platform = Platform.open(own)
    file = home / "online" / "store.db"
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(RegistryError, match=r"store\.db is a damaged database"):
        write_backup(platform, tmp_path / "home.tar")
    assert write_backup(platform, tmp_path / "home.tar", with_damage=True)["damaged"] == [str(file)]
    other = elsewhere(own, tmp_path / "other")
    assert restore_backup(other, tmp_path / "home.tar")["damaged"] == [str(file)]
    assert (other.home / "online" / "store.db").read_bytes() == content
