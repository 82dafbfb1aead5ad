"""Content-addressed storage of bundles, local or on any store that fsspec reaches."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from recstill.api.errors import IntegrityError
from recstill.data.files import check_sha256, naming_a_full_disk, sha256_of

if TYPE_CHECKING:
    from recstill.settings import Settings

MANIFEST = "manifest.json"
STAGED = ".new"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Artifacts:
    """Folders by the digest of their manifest, which names the digest of every other file.

    The manifest is written last, so a folder without one was never finished and counts as absent.
    """

    def __init__(self, settings: Settings) -> None:
        self._files: Any
        self._files, self._root = fsspec.core.url_to_fs(settings.artifacts_url)
        self._is_local = "file" in self._files.protocol
        self._cache = settings.cache / "artifacts"

    def put(self, folder: Path) -> str:
        """Store a folder and return its digest. Any number of processes may store the same one at once.

        All files are copied aside first, so that a full disk leaves nothing behind.
        """
        digest = sha256_of(folder / MANIFEST)
        if not self.has(digest):
            names = [*sorted(path.name for path in folder.iterdir() if path.name != MANIFEST), MANIFEST]
            aside, target = f"{self._root}/{STAGED}/{secrets.token_hex(8)}", self._path(digest)
            try:
                with naming_a_full_disk(Path(target)):
                    self._files.makedirs(aside, exist_ok=True)
                    for name in names:
                        self._files.put_file(str(folder / name), f"{aside}/{name}")
                    self._files.makedirs(target, exist_ok=True)
                for name in names:  # the same bytes as those of another process that is here too
                    self._files.mv(f"{aside}/{name}", f"{target}/{name}")
            finally:
                if self._files.exists(aside):
                    self._files.rm(aside, recursive=True)
        return digest

    def has(self, digest: str) -> bool:
        """Say whether the folder is stored, whole."""
        return bool(self._files.exists(f"{self._path(digest)}/{MANIFEST}"))

    def get(self, digest: str) -> Path:
        """Return a local folder with the files of an artifact. The manifest is the one that the digest names, which names the
        digest of every other file; the reader verifies those. Raise IntegrityError if it is missing or was changed."""
        if not self.has(digest):
            raise IntegrityError(f"Artifact {digest[:12]} is missing from {self._root}. Restore it, or run the recipe again.")
        if self._is_local:
            return self._checked(Path(self._path(digest)), digest)
        local = self._cache / digest
        if (local / MANIFEST).is_file():
            try:
                return self._checked(local, digest)
            except IntegrityError:
                shutil.rmtree(local)  # it is a copy
        self._fetch(digest, local)
        return self._checked(local, digest)

    def stored(self) -> list[str]:
        """Return the digests of everything stored whole."""
        return [digest for digest, is_whole in self._folders().items() if is_whole]

    def unfinished(self) -> list[str]:
        """Return the folders, below the root, that a killed process left: without a manifest, or copied aside."""
        halves = [f"{digest[:2]}/{digest}" for digest, is_whole in self._folders().items() if not is_whole]
        return [*halves, *("/".join(path.split("/")[-2:]) for path in self._files.glob(f"{self._root}/{STAGED}/*"))]

    def age(self, folder: str) -> timedelta:
        """Return how long nothing in a folder below the root, `ab/abcd…`, was changed."""
        paths = self._files.find(f"{self._root}/{folder}", withdirs=self._is_local) or [f"{self._root}/{folder}"]
        return datetime.now(UTC) - max(self._files.modified(path) for path in paths)

    def size(self, folder: str) -> int:
        """Return the bytes of a folder below the root."""
        return int(self._files.du(f"{self._root}/{folder}"))

    def delete(self, folder: str) -> None:
        """Remove a folder below the root, its manifest first."""
        if self._files.exists(f"{self._root}/{folder}/{MANIFEST}"):
            self._files.rm(f"{self._root}/{folder}/{MANIFEST}")
        self._files.rm(f"{self._root}/{folder}", recursive=True)

    def _folders(self) -> dict[str, bool]:
        """Return {digest: whether it is whole} of every folder that lies where an artifact of its name does."""
        if not self._files.exists(self._root):
            return {}
        found = [path.rstrip("/").split("/")[-1] for path in self._files.glob(f"{self._root}/*/*")]
        return {
            digest: self.has(digest) for digest in found if _DIGEST.fullmatch(digest) and self._files.isdir(self._path(digest))
        }

    def _checked(self, folder: Path, digest: str) -> Path:
        check_sha256(folder / MANIFEST, digest, "Restore the artifact, or run the recipe again.")
        return folder

    def _fetch(self, digest: str, local: Path) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=local.parent) as temporary:
            self._files.get(self._path(digest), f"{temporary}/files", recursive=True)
            self._checked(Path(temporary) / "files", digest)
            if not (local / MANIFEST).is_file():  # else another process was faster
                shutil.rmtree(local, ignore_errors=True)
                (Path(temporary) / "files").rename(local)

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"
