"""Garbage collection deletes what was listed, is old enough and was known to this registry; nothing else, ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from recstill.api.errors import RegistryError
from recstill.cli import cli
from recstill.data.bundle import open_bundle
from recstill.data.files import read_card, read_json, write_card, write_json
from recstill.recipes.garbage import KINDS, collect_garbage, find_garbage
from recstill.recipes.packaging import package
from recstill.recipes.platform import Platform
from recstill.recipes.release import verify_versions
from recstill.registry.artifacts import Artifacts
from recstill.registry.known import record_artifact
from recstill.registry.versions import find_version
from recstill.settings import Settings

NONE = timedelta(0)


def another_bundle(platform: Platform, folder: Path, seed: int) -> Path:
    """Return the champion's bundle with another seed, which is another artifact."""
    with platform.registry.transaction() as session:
        shutil.copytree(platform.artifacts.get(find_version(session, "ads:1").artifact), folder)
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), "seed": seed})
    return folder


def make_older(path: Path, days: float) -> None:
    moment = time.time() - 86400 * days
    for one in [path, *path.rglob("*")]:
        os.utime(one, (moment, moment), follow_symlinks=False)


def test_only_known_old_and_listed_artifacts_go(home_copy: Settings, tmp_path: Path) -> None:
    platform = Platform.open(home_copy)
    known = another_bundle(platform, tmp_path / "known", 1)
    foreign = platform.artifacts.put(another_bundle(platform, tmp_path / "foreign", 2))
    with platform.registry.transaction() as session:
        record_artifact(session, digest := Artifacts(home_copy).put(known), 1)
    states = {one.name: (one.goes, one.why) for one in find_garbage(platform, ["artifact"])}
    assert states[digest][0] is False
    assert "it is new" in states[digest][1]
    assert states[foreign] == (False, "unknown to this registry: it stays, another one may use it")
    make_older(platform.artifacts.get(digest), 2)
    listed = find_garbage(platform, ["artifact"])
    assert [one.name for one in listed if one.goes] == [digest]
    late = platform.artifacts.put(another_bundle(platform, tmp_path / "late", 3))  # after it was listed
    with platform.registry.transaction() as session:
        record_artifact(session, late, 1)
    make_older(platform.artifacts.get(late), 2)
    assert [one.name for one in collect_garbage(platform, listed)] == [digest]
    assert not platform.artifacts.has(digest)
    assert platform.artifacts.has(late)
    assert platform.artifacts.has(foreign)
    assert [row["state"] for row in verify_versions(platform, None)] == ["ok", "ok"]


def test_an_artifact_touched_after_it_was_listed_stays(home_copy: Settings, tmp_path: Path) -> None:
    platform = Platform.open(home_copy)
    digest = platform.artifacts.put(another_bundle(platform, tmp_path / "bundle", 1))
    with platform.registry.transaction() as session:
        record_artifact(session, digest, 1)
    make_older(platform.artifacts.get(digest), 2)
    listed = [one for one in find_garbage(platform, ["artifact"]) if one.goes]
    assert len(listed) == 1
    os.utime(platform.artifacts.get(digest) / "manifest.json")
    assert collect_garbage(platform, listed) == []
    assert platform.artifacts.has(digest)


def test_a_registry_that_knows_nothing_deletes_nothing(home_copy: Settings) -> None:
    platform = Platform.open(home_copy)
    with platform.registry.engine.connect() as connection:  # what a lost or another database looks like
        for table in ("lineage", "alias", "version", "artifact", "snapshot"):
            connection.execute(text(f"delete from {table}"))
        connection.execute(text("drop trigger if exists audit_no_delete"))
        for (name,) in connection.execute(text("select name from sqlite_master where type = 'trigger'")).all():
            connection.execute(text(f"drop trigger {name}"))
        connection.execute(text("delete from audit"))
        connection.commit()
    stored = platform.artifacts.stored()
    with pytest.raises(RegistryError, match="never knew an artifact, but .* holds 2"):
        find_garbage(platform, KINDS, NONE)
    done = CliRunner().invoke(cli, ["models", "gc", "--yes", "--older-than", "0"])
    assert done.exit_code == 1
    assert CliRunner().invoke(cli, ["signals", "gc", "--yes", "--older-than", "0"]).exit_code == 0
    assert platform.artifacts.stored() == stored
    assert list((home_copy.home / "signals").glob("*/*/*/signals.json"))


def test_the_folder_that_was_found_is_judged_not_the_one_that_its_card_names(home_copy: Settings) -> None:
    platform = Platform.open(home_copy)
    root = home_copy.home / "signals"
    card = read_card(next(root.glob("*/*/*/signals.json")))
    victim = home_copy.home / "runs"
    write_card(root / "a" / "b" / "c" / "signals.json", card | {"task": "../runs", "teacher": ".", "snapshot": "."})
    write_card(root / "ads" / "x" / "y" / "signals.json", card)
    listed = [one for one in find_garbage(platform, ["signals"], NONE) if one.name in ("a/b/c", "ads/x/y")]
    assert [one.goes for one in listed] == [False, False]
    assert all("it was moved or changed" in one.why for one in listed)
    assert CliRunner().invoke(cli, ["signals", "gc", "--yes", "--older-than", "0"]).exit_code == 0
    assert victim.is_dir()
    assert "a/b/c" not in [path.name for path in root.iterdir()]
    assert list(root.glob("ads/ads-teacher-1/*/signals.json"))


KILLED = """
import os, sys, threading, time
from pathlib import Path
threading.Thread(target=lambda: (time.sleep(float(sys.argv[3])), os.kill(os.getpid(), 9))).start()
from recstill.registry.artifacts import Artifacts
from recstill.settings import Settings
import recstill.data.files as files
files.write_json(Path(sys.argv[2]) / "x.json", {})
print("ready", flush=True)
artifacts = Artifacts(Settings.from_environment())
while True:
    artifacts.put(Path(sys.argv[1]))
    artifacts.delete(f"{(d := artifacts.put(Path(sys.argv[1])))[:2]}/{d}")
    with files.new_folder(Path(sys.argv[2]) / "folder") as folder:
        files.write_json(folder / "y.json", list(range(50_000)))
    files.write_json(Path(sys.argv[2]) / "x.json", list(range(50_000)))
    import shutil; shutil.rmtree(Path(sys.argv[2]) / "folder")
"""


def test_what_killed_commands_leave_is_collected_and_nothing_else(home_copy: Settings, tmp_path: Path) -> None:
    platform = Platform.open(home_copy)
    bundle = another_bundle(platform, tmp_path / "bundle", 9)
    work = home_copy.folder("cache", "work")
    for kill in range(3):
        subprocess.run(
            [sys.executable, "-c", KILLED, bundle, work, str(1.5 + 0.31 * kill)], stdout=subprocess.DEVNULL, check=False
        )
    (home_copy.folder("tmp") / "tmpabcdefgh").mkdir()
    (home_copy.folder("bentoml", "tmp") / "tmpabcdefgh").mkdir()
    (work / ".new-abcdefgh").mkdir()
    half = home_copy.home / "artifacts" / "ab" / ("ab" + "0" * 62)
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half")
    assert [one for one in find_garbage(platform, ["left over"]) if one.goes] == []  # what is new may be in use
    for path in (home_copy.home, home_copy.home / "artifacts"):
        make_older(path, 2)
    before = {path for path in home_copy.home.rglob("*") if path.is_file()}
    listed = [one for one in find_garbage(platform, ["left over", "artifact"]) if one.goes]
    names = [one.name for one in listed]
    assert {"tmp/tmpabcdefgh", "bentoml/tmp/tmpabcdefgh", "cache/work/.new-abcdefgh", f"ab/{half.name}"} <= set(names)
    assert collect_garbage(platform, listed) == listed
    gone = before - {path for path in home_copy.home.rglob("*") if path.is_file()}
    assert all(any(name in str(path) for name in names) for path in gone)
    assert [row["state"] for row in verify_versions(platform, None)] == ["ok", "ok"]
    assert [one for one in find_garbage(platform, ["left over"], NONE) if one.goes] == []


def test_serving_takes_the_bento_of_the_same_content_and_it_stays_while_it_is_served(home_copy: Settings) -> None:
    platform = Platform.open(home_copy)
    bento = package(platform, ["ads:1"], reuse=True)
    assert package(platform, ["ads:1"], reuse=True) == bento
    asked = package(platform, ["ads:1"])
    assert asked != bento
    (bento / "src" / "models" / "models.json").write_text("[]")
    again = package(platform, ["ads:1"], reuse=True)
    assert again not in (bento, asked)
    make_older(again, 2)
    make_older(bento, 2)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from pathlib import Path; from recstill.recipes.leftovers import hold_bento; "
         "hold_bento(Path(sys.argv[1])); print(flush=True); time.sleep(60)", again], stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    make_older(again, 2)
    names = {one.name: one.goes for one in find_garbage(platform, ["bento"])}
    assert names == {str(path.relative_to(home_copy.home)): path == bento for path in (bento, again)}
    holder.kill()
    holder.wait()
    done = CliRunner().invoke(cli, ["gc", "--yes"])
    assert done.exit_code == 0, done.output
    assert not bento.exists()
    assert not again.exists()
    assert asked.is_dir()


def test_two_processes_that_store_the_same_artifact_both_succeed(home_copy: Settings, tmp_path: Path) -> None:
    platform = Platform.open(home_copy)
    for seed in range(8):
        bundle = another_bundle(platform, tmp_path / f"b{seed}", 100 + seed)
        children = []
        for _ in range(3):
            if (child := os.fork()) == 0:
                try:
                    open_bundle(Artifacts(home_copy).get(Artifacts(home_copy).put(bundle)))
                except BaseException:
                    os._exit(1)
                os._exit(0)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert platform.artifacts.unfinished() == []
