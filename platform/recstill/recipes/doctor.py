"""What is installed, what is missing, what to do."""

from __future__ import annotations

import importlib.metadata
import platform as machine
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recstill.api.errors import RecstillError
from recstill.plugins.manager import load_plugins, normalised
from recstill.registry.address import shown
from recstill.registry.engine import open_registry
from recstill.registry.plugins import list_plugins

if TYPE_CHECKING:
    from recstill.settings import Settings

_PACKAGES = (
    "torch",
    "torchrec",
    "fbgemm-gpu",
    "feast",
    "bentoml",
    "pluggy",
    "sqlmodel",
    "click",
    "duckdb",
    "onnxruntime",
    "onnx",
    "safetensors",
)
_NEEDED_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Finding:
    """One line: a thing, `ok`, `note` or `missing`, what was found, what to do."""

    thing: str
    state: str
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at versions, device, stores and plugins. Nothing is created or changed outside the registry."""
    recent = sys.version_info >= (3, 11)
    findings = [
        Finding("python", "ok" if recent else "missing", machine.python_version(), "" if recent else "use 3.11 or newer")
    ]
    findings += [_package(name) for name in _PACKAGES]
    findings += [_device(), _disk(settings.home), _registry(settings), _features(settings)]
    plugins = load_plugins()
    findings += [Finding(f"plugin {p.name}", "ok", f"{p.version}, {len(p.hooks)} hooks") for p in plugins.loaded]
    findings += [
        Finding(f"plugin {p.name}", "missing", "; ".join(p.problems), "mend it or uninstall it") for p in plugins.broken
    ]
    if not plugins.loaded:
        findings.append(Finding("plugins", "missing", "none is installed", "make setup"))
    names = {plugin.name for plugin in plugins.loaded} | {plugin.name for plugin in plugins.broken}
    return findings + _absent(settings, names)


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", "make setup, or pip install 'recstill[all]'")


def _device() -> Finding:
    if not Path("/proc/driver/nvidia/version").exists():
        return Finding("device", "ok", "CPU (no NVIDIA driver)")
    import torch

    if torch.cuda.is_available():
        return Finding("device", "ok", torch.cuda.get_device_name(0))
    return Finding("device", "note", "an NVIDIA driver, but a CPU build of torch", "delete .venv and `make setup`")


def _disk(home: Path) -> Finding:
    place = next(parent for parent in (home, *home.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    state = "ok" if free > _NEEDED_BYTES else "note"
    return Finding("disk", state, f"{free / 1e9:.0f} GB free for {home}", "" if state == "ok" else "runs may need 5 GB")


def _registry(settings: Settings) -> Finding:
    try:
        registry = open_registry(settings)
        with registry.read() as session:
            count = len(list_plugins(session))
    except RecstillError as error:
        return Finding("registry", "missing", str(error), "see what was found")
    return Finding("registry", "ok", f"{shown(registry.engine.url)}, {count} plugins registered")


def _absent(settings: Settings, names: set[str]) -> list[Finding]:
    """Name the plugins that the registry lets take part and that are not installed."""
    try:
        with open_registry(settings).read() as session:
            rows = [row for row in list_plugins(session) if row.enabled and normalised(row.distribution) not in names]
    except RecstillError:  # said by the line of the registry
        return []
    advice = "install it, or `recstill plugins disable {}`"
    return [
        Finding(f"plugin {row.distribution}", "missing", "registered, not installed", advice.format(row.distribution))
        for row in rows
    ]


def _features(settings: Settings) -> Finding:
    if not (settings.feature_repo / "feature_store.yaml").is_file():
        return Finding("feature repository", "missing", str(settings.feature_repo), "set RECSTILL_FEATURE_REPO")
    if not (settings.home / "online" / "current.json").is_file():
        return Finding("features", "note", "nothing is online", "recstill features apply, then materialize")
    return Finding("features", "ok", f"online in {settings.home / 'online'}")
