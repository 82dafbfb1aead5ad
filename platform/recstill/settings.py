"""Where state lives. Read from the environment once, by whoever starts the process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Folders and addresses of one installation. Build it with `Settings.from_environment()`."""

    home: Path
    registry_url: str
    artifacts_url: str
    feature_repo: Path

    @classmethod
    def from_environment(cls) -> Settings:
        """Read `RECSTILL_HOME`, `RECSTILL_REGISTRY_URL`, `RECSTILL_ARTIFACTS_URL` and `RECSTILL_FEATURE_REPO`."""
        home = Path(os.environ.get("RECSTILL_HOME", ".recstill")).expanduser().resolve()
        return cls(
            home=home,
            registry_url=os.environ.get("RECSTILL_REGISTRY_URL", f"sqlite:///{home / 'registry.db'}"),
            artifacts_url=os.environ.get("RECSTILL_ARTIFACTS_URL", str(home / "artifacts")),
            feature_repo=Path(os.environ.get("RECSTILL_FEATURE_REPO", _bundled_feature_repo())).resolve(),
        )

    @property
    def cache(self) -> Path:
        """Downloads, safe to delete. Shared by every home of this user, so that a second project fetches nothing."""
        base = os.environ.get("RECSTILL_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(base) / "recstill"

    def folder(self, *parts: str) -> Path:
        """Return a folder below the home, created if needed."""
        path = self.home.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path


def _bundled_feature_repo() -> str:
    """`feature_repo` of the checkout or of the working directory, else the copy inside the wheel."""
    package = Path(__file__).resolve().parent
    for candidate in (Path.cwd() / "feature_repo", package.parents[1] / "feature_repo"):
        if (candidate / "feature_store.yaml").is_file():
            return str(candidate)
    return str(package / "features" / "repo")
