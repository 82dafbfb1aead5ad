"""Files are whole or not there, a damaged one is named, and a full disk leaves nothing behind."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api.errors import IntegrityError
from recstill.data.files import new_folder, read_card, read_json, sha256_of, write_card, write_json
from recstill.registry.artifacts import Artifacts
from recstill.settings import Settings

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(max_size=6), VALUES, min_size=1, max_size=4), data=st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_card_is_read_as_it_was_written_and_any_changed_bit_or_cut_is_found(
    value: dict, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cards") / "card.json"
    write_card(path, value)
    assert read_card(path) == value
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = content[:place] + bytes([content[place] ^ (1 << data.draw(st.integers(0, 7)))]) + content[place + 1 :]
    for changed in (flipped, content[:place]):
        path.write_bytes(changed)
        with pytest.raises(IntegrityError, match=r"card\.json (was changed|is damaged)"):
            read_card(path)


def test_cards_of_before_they_had_a_digest_are_read(tmp_path: Path) -> None:
    write_json(tmp_path / "card.json", {"sha256": "a" * 64, "task": "ads"})
    assert read_card(tmp_path / "card.json") == {"sha256": "a" * 64, "task": "ads"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"x\.json is damaged: it is no JSON .* Make it again"):
        read_json(tmp_path / "x.json", "Make it again.")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_said_and_leaves_the_old_file_and_nothing_else(full_disk: Path) -> None:
    write_json(full_disk / "a.json", {"a": 1})
    with pytest.raises(OSError, match="The disk is full") as failure:
        write_json(full_disk / "a.json", {"a": "x" * 100_000})
    assert failure.value.errno == errno.ENOSPC
    assert str(failure.value.filename) == str(full_disk / "a.json")
    with pytest.raises(OSError, match="The disk is full"), new_folder(full_disk / "folder") as folder:
        (folder / "big").write_bytes(b"x" * 100_000)
    assert [path.name for path in full_disk.iterdir()] == ["a.json"]
    assert read_json(full_disk / "a.json") == {"a": 1}


def test_an_artifact_that_does_not_fit_leaves_nothing(full_disk: Path, tmp_path: Path) -> None:
    artifacts = Artifacts(Settings(tmp_path, "", str(full_disk / "artifacts"), tmp_path))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "small").write_bytes(b"x" * 20_000)
    (folder / "weights").write_bytes(b"x" * 100_000)
    write_manifest_of(folder)
    with pytest.raises(OSError, match="The disk is full"):
        artifacts.put(folder)
    assert [path for path in full_disk.rglob("*") if path.is_file()] == []
    (folder / "weights").write_bytes(b"x")
    write_manifest_of(folder)
    stored = artifacts.get(artifacts.put(folder))
    assert sorted(path.name for path in stored.iterdir()) == ["manifest.json", "small", "weights"]
    (stored / "manifest.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"manifest\.json was changed"):
        artifacts.get(stored.name)


def write_manifest_of(folder: Path) -> None:
    write_json(folder / "manifest.json", {name: sha256_of(folder / name) for name in ("small", "weights")})
