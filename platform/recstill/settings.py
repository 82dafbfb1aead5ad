"""Where state lives. Read from the environment once, by whoever starts the process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from recstill.api.errors import ConfigError


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
        home = Path(_given("RECSTILL_HOME") or ".recstill").expanduser().resolve()
        if "?" in str(home):
            raise ConfigError("RECSTILL_HOME", [f"{home}: addresses of databases end at a '?'; name a folder without one"])
        return cls(
            home=home,
            registry_url=_given("RECSTILL_REGISTRY_URL") or f"sqlite:///{home / 'registry.db'}",
            artifacts_url=_given("RECSTILL_ARTIFACTS_URL") or str(home / "artifacts"),
            feature_repo=Path(_given("RECSTILL_FEATURE_REPO") or _bundled_feature_repo()).expanduser().resolve(),
        )

    @property
    def own_registry(self) -> Path:
        """The registry's file where RECSTILL_REGISTRY_URL names no other."""
        return self.home / "registry.db"

    @property
    def own_registry_url(self) -> str:
        return f"sqlite:///{self.own_registry}"

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


def _given(variable: str) -> str:
    """The value of a variable; one that is set to nothing counts as not set."""
    return os.environ.get(variable, "").strip()


def _bundled_feature_repo() -> str:
    """`feature_repo` of the checkout or of the working directory, else the copy inside the wheel."""
    package = Path(__file__).resolve().parent
    for candidate in (Path.cwd() / "feature_repo", package.parents[1] / "feature_repo"):
        if (candidate / "feature_store.yaml").is_file():
            return str(candidate)
    return str(package / "features" / "repo")
