"""Open the Feast repository that `feature_store.yaml` describes, and say what is applied."""

from __future__ import annotations

import atexit
import difflib
import os
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
import sqlalchemy
from feast.repo_config import (
    OFFLINE_STORE_CLASS_FOR_TYPE,
    ONLINE_STORE_CLASS_FOR_TYPE,
    get_offline_config_from_type,
    get_online_config_from_type,
    load_repo_config,
)

from recstill.api.errors import FeatureError
from recstill.features.definitions import definitions
from recstill.features.offline import DuckDBOfflineStoreConfig
from recstill.features.store import Repository
from recstill.features.views import all_views, feature_set
from recstill.features.yaml import check_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast.repo_config import RepoConfig

    from recstill.settings import Settings

__all__ = ["all_views", "definitions", "feature_set", "is_own", "open_repo"]

# feast turns deprecation warnings on for everybody; ibis then reports its own on every query.
warnings.filterwarnings("ignore", category=DeprecationWarning)
# ibis keeps its duckdb connection until after the interpreter is gone, and duckdb then complains on stderr.
atexit.register(setattr, ibis.options, "default_backend", None)


def open_repo(settings: Settings, *, only_read: bool = False, with_online: bool = True) -> Repository:
    """Open the store that `feature_store.yaml` describes; relative paths in it mean the repository, as in Feast.

    only_read: make no registry where there is none yet; an empty one stands in. with_online: leave the online store out when
    only the registry is compared: Feast makes an empty file for SQLite as soon as it looks.
    Raise FeatureError for a configuration that cannot be used, naming its key.
    """
    config = _config(settings)
    if not with_online:
        config.online_config = config._online_store = None
    if config.offline_store.type == "duckdb":
        config.offline_config = DuckDBOfflineStoreConfig(**config.offline_store.model_dump())
        config._offline_store = None
    store = Repository(repo_path=str(settings.feature_repo), config=config)
    where = f"{yaml_of(settings)}: "
    with _said(f"{where}registry"):
        if only_read and not _has_registry(config, settings.feature_repo):
            config.registry.registry_type, config.registry.path = "file", str(Path(tempfile.mkdtemp()) / "registry.db")
        store._registry = store._create_registry()
    with _said(f"{where}offline_store"):
        assert store.provider.offline_store is not None
    with _said(f"{where}online_store"):
        assert store.provider.online_store is not None or not with_online
    return store


def yaml_of(settings: Settings) -> Path:
    """Return the file that describes the repository. Raise FeatureError where there is none."""
    path = settings.feature_repo / "feature_store.yaml"
    if not path.is_file():
        raise FeatureError(f"{settings.feature_repo} has no feature_store.yaml. Set RECSTILL_FEATURE_REPO.")
    return path


def is_own(settings: Settings) -> bool:
    """Say whether registry and online store are those that recstill made: files in the `feast` folder of its home."""
    config = _config(settings)
    online = config.online_store
    paths = [_file(config.registry.path), _file(online.path) if online is not None and online.type == "sqlite" else None]
    own = settings.home / "feast"
    return all(path is not None and (settings.feature_repo / path).resolve().is_relative_to(own) for path in paths)


def _config(settings: Settings) -> RepoConfig:
    settings.folder("feast")
    os.environ["RECSTILL_HOME"] = str(settings.home)
    yaml = yaml_of(settings)
    _check_types(yaml, check_variables(yaml))
    with _said(str(yaml)):
        config = load_repo_config(settings.feature_repo, yaml)
        assert config.registry is not None
    with _said(f"{yaml}: offline_store"):
        assert config.offline_store is not None
    with _said(f"{yaml}: online_store"):
        assert config.online_store is not None or config.online_config is None
    return config


def _check_types(yaml: Path, content: dict[str, Any]) -> None:
    """Raise FeatureError for a store that Feast does not know, or whose package is not installed here."""
    kinds: dict[str, tuple[Any, dict[str, str]]] = {
        "online_store": (get_online_config_from_type, ONLINE_STORE_CLASS_FOR_TYPE),
        "offline_store": (get_offline_config_from_type, OFFLINE_STORE_CLASS_FOR_TYPE),
    }
    for key, (config_class, known) in kinds.items():
        part = content.get(key)
        kind = part.get("type") if isinstance(part, dict) else part
        if not isinstance(kind, str) or kind.lower() in ("none", "null"):
            continue
        if kind not in known and "." not in kind:
            near = difflib.get_close_matches(kind, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Feast knows {', '.join(sorted(known))}."
            raise FeatureError(f"{yaml}: {key}: there is no store of type {kind!r}.{hint}")
        with _said(f"{yaml}: {key}: type {kind!r}"):
            config_class(kind)


def _has_registry(config: RepoConfig, repo: Path) -> bool:
    path = config.registry.path
    file = _file(path)
    if file is not None:
        return (repo / file).is_file()
    if config.registry.registry_type != "sql":
        return True  # a bucket or a server: Feast reads it, or says that it cannot
    engine = sqlalchemy.create_engine(path)
    try:
        return sqlalchemy.inspect(engine).has_table("feature_views")
    finally:
        engine.dispose()


def _file(path: str) -> Path | None:
    """Return the local file that a registry or an online store of this address is; None if it is not a file."""
    plain = path.removeprefix("sqlite:///").removeprefix("file://")
    return None if "://" in plain else Path(plain)


@contextmanager
def _said(where: str) -> Iterator[None]:
    """Turn whatever Feast raises about its configuration into one sentence that names the place."""
    try:
        yield
    except FeatureError:
        raise
    except Exception as error:
        raise FeatureError(f"{where}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """Say what is wrong: the package that is missing, where that is behind it, else the first lines of the error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            return f"the package {cause.name!r} is not installed here: `pip install {cause.name.replace('_', '-')}`"
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
