"""Content-addressed storage of bundles, local or on any store that fsspec reaches."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from recstill.api.errors import IntegrityError
from recstill.data.files import sha256_of

if TYPE_CHECKING:
    from recstill.settings import Settings

MANIFEST = "manifest.json"


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
        """Store a folder and return its digest."""
        digest = sha256_of(folder / MANIFEST)
        if not self.has(digest):
            target = self._path(digest)
            self._files.makedirs(target, exist_ok=True)
            names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
            for name in [*names, MANIFEST]:
                self._files.put_file(str(folder / name), f"{target}/.{name}.new")
                self._files.mv(f"{target}/.{name}.new", f"{target}/{name}")
        return digest

    def has(self, digest: str) -> bool:
        """Say whether the folder is stored, whole."""
        return bool(self._files.exists(f"{self._path(digest)}/{MANIFEST}"))

    def get(self, digest: str) -> Path:
        """Return a local folder with the files of an artifact. The reader verifies them."""
        if not self.has(digest):
            raise IntegrityError(f"Artifact {digest[:12]} is missing from {self._root}. Restore it, or run the recipe again.")
        if self._is_local:
            return Path(self._path(digest))
        local = self._cache / digest
        if not (local / MANIFEST).is_file():
            local.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=local.parent) as temporary:
                self._files.get(self._path(digest), f"{temporary}/files", recursive=True)
                (Path(temporary) / "files").rename(local)
        return local

    def stored(self) -> list[str]:
        """Return the digests of everything stored whole."""
        if not self._files.exists(self._root):
            return []
        return [path.split("/")[-2] for path in self._files.glob(f"{self._root}/*/*/{MANIFEST}")]

    def delete(self, digest: str) -> None:
        """Remove an artifact, its manifest first."""
        self._files.rm(f"{self._path(digest)}/{MANIFEST}")
        self._files.rm(self._path(digest), recursive=True)

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"
