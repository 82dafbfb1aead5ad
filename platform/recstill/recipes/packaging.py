"""Package versions as a bento, without a network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from recstill.api.errors import BundleError
from recstill.data.bundle import Manifest, open_bundle
from recstill.data.files import read_card, sha256_of, write_card, write_whole
from recstill.data.packed import current_version, open_store
from recstill.recipes.leftovers import mark_bento, marked_bentos
from recstill.recipes.wheel import build_wheel
from recstill.registry.versions import find_version
from recstill.serving.cards import MODELS, check_card, check_online, read_models, write_models
from recstill.serving.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.recipes.platform import Platform
    from recstill.settings import Settings

NO_FEATURES = "none"
_NEEDED = (
    "bentoml",
    "click",
    "faiss-cpu",
    "numpy",
    "onnxruntime",
    "orjson",
    "pluggy",
    "prometheus-client",
    "pydantic",
    "pyyaml",
    "safetensors",
    "starlette",
)


def package(platform: Platform, references: Sequence[str], *, reuse: bool = False) -> Path:
    """Build a bento of one version per task and return its folder: models, features, wheels, pinned requirements.

    reuse: take the bento that an earlier such call made of the same content, and leave it to `recstill gc` to delete it.
    Raise BundleError for a teacher (it may need privileged features) and for two versions of one task.
    """
    with platform.registry.read() as session:
        versions = [find_version(session, reference) for reference in references]
    cards: list[dict[str, str]] = []
    bundles: dict[str, Path] = {}
    views: set[str] = set()
    for version in versions:
        folder = platform.artifacts.get(version.artifact)
        manifest = open_bundle(folder)
        name = f"{version.model_name}:{version.number}"
        _check(name, manifest, [card["task"] for card in cards])
        cards.append({"task": manifest.task.name, "version": name, "bundle": version.artifact[:16], "sha256": version.artifact})
        bundles[version.artifact[:16]] = folder
        views |= views_read(manifest)
    online = online_for(platform.settings, views)
    vectors = [_item_vectors(platform.settings, card, bundles[card["bundle"]], online) for card in cards]
    online_name = "" if online is None else online.name
    with tempfile.TemporaryDirectory(dir=platform.settings.folder("tmp")) as temporary:
        context = Path(temporary)
        for file in deploy_folder().iterdir():
            if file.is_file():
                shutil.copyfile(file, context / file.name)
        for digest, folder in bundles.items():
            shutil.copytree(folder, context / "models" / digest)
        for card, kept in zip(cards, vectors, strict=True):
            if kept is not None:
                card.update(vectors=kept.name, vectors_of=online_name, vectors_sha256=sha256_of(kept))
                shutil.copyfile(kept, context / "models" / kept.name)
        _copy_views(online, context / "online", views)
        write_models(context / "models", cards, sha256_of(context / "online" / "online.json"))
        wheel = build_wheel("recstill", context / "wheels")
        _write_requirements(context, wheel)
        name = "-".join(card["task"] for card in cards)
        return _find_or_build(platform.settings, context, name) if reuse else _build(platform.settings, context, name)


def _find_or_build(settings: Settings, context: Path, name: str) -> Path:
    """Return the bento that was made of the files in `context`, if all of them are there as they were; else build it."""
    files = {str(path.relative_to(context)): sha256_of(path) for path in sorted(context.rglob("*")) if path.is_file()}
    content = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    for bento in marked_bentos(settings, content):
        if all(_has_digest(bento / "src" / file, digest) for file, digest in files.items()):
            return bento
    bento = _build(settings, context, name)
    mark_bento(bento, content)
    return bento


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def views_read(manifest: Manifest) -> set[str]:
    """Return the views whose online features a model reads when it serves; a task without Feast views reads none."""
    return {str(view["name"]) for view in manifest.features["views"]}


def online_for(settings: Settings, views: set[str]) -> Path | None:
    """Return the verified online features to serve from, or None where no view is read and nothing needs to be materialized."""
    if not views:
        return None
    online = current_version(settings.folder("online"))
    open_store(online, sorted(views))
    return online


def _copy_views(online: Path | None, target: Path, views: set[str]) -> None:
    """Write the online features of these views, and of no other: a bento carries nobody's data that it does not read."""
    target.mkdir()
    if online is None:
        write_card(target / "online.json", {"version": NO_FEATURES, "as_of": None, "views": {}})
        return
    meta = read_card(online / "online.json")
    for name in sorted(views):
        shutil.copytree(online / name, target / name)
    write_card(target / "online.json", {**meta, "views": {name: meta["views"][name] for name in sorted(views)}})


def _item_vectors(settings: Settings, card: dict[str, str], bundle: Path, online: Path | None) -> Path | None:
    """Return the file with the item vectors of a model that ranks the whole catalogue: computed once for a version of the
    features, so that a server of 90,000 items is ready in seconds."""
    if online is None or not open_bundle(bundle).vectors:
        return None
    kept = settings.folder("cache", "vectors") / f"{card['bundle']}-{online.name}.npy"
    if not kept.is_file():
        index = Scorer(card["version"], bundle, open_store(online)).index
        assert index is not None
        content = io.BytesIO()
        np.save(content, index.vectors)
        write_whole(kept, content.getvalue())
    return kept


def deploy_folder() -> Path:
    """Where the service definition lies: `deploy/bento` of the checkout, else the copy inside the wheel."""
    import recstill

    package_folder = Path(recstill.__file__).parent
    checkout = package_folder.parents[1] / "deploy" / "bento"
    return checkout if (checkout / "service.py").is_file() else package_folder / "serving" / "deploy"


def bento_environment(settings: Settings) -> dict[str, str]:
    """The environment in which bentoml is called: its store in our home, no tracking, no spinning threads."""
    home = settings.folder("bentoml")
    quiet = {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "1",
    }
    return {**os.environ, **quiet}


def _check(name: str, manifest: Manifest, tasks: Sequence[str]) -> None:
    if manifest.role != "student":
        raise BundleError(f"{name} is a {manifest.role}; only students are packaged.")
    if manifest.task.name in tasks:
        raise BundleError(f"Two versions for task {manifest.task.name!r}: a bento serves one version per task.")


def _write_requirements(context: Path, wheel: Path) -> None:
    lines = [f"{name}=={version}" for name, version in sorted(_closure().items())]
    (context / "requirements.txt").write_text("\n".join([*lines, f"./wheels/{wheel.name}"]) + "\n")


def _closure() -> dict[str, str]:
    """What a worker needs, and all that those need, at the versions installed here: most of them pin nothing themselves."""
    found: dict[str, str] = {}
    waiting = list(_NEEDED)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = importlib.metadata.version(name)
            for text in importlib.metadata.requires(name) or ():
                need = Requirement(text)
                if need.marker is None or need.marker.evaluate({"extra": ""}):
                    waiting.append(need.name)
    return found


def _build(settings: Settings, context: Path, name: str) -> Path:
    command = [sys.executable, "-m", "bentoml", "build", ".", "-o", "tag", "--name", f"recstill-{name}"]
    (context / "bentofile.yaml").write_text(
        f"service: service:Recstill\nname: recstill-{name}\n"
        "include: ['*.py', '*.txt', 'Containerfile', 'models/*', 'online/*', 'wheels/*']\n"
    )
    environment = bento_environment(settings)
    done = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(f"bentoml build failed:\n{done.stderr.strip()[-2000:]}")
    tag = next(line.removeprefix("__tag__:") for line in done.stdout.splitlines() if line.startswith("__tag__:"))
    bento, version = tag.strip().split(":")
    folder = settings.folder("bentoml") / "bentos" / bento / version
    shutil.copyfile(folder / "src" / "Containerfile", folder / "Containerfile")
    return folder


def served_versions(bento: Path) -> list[dict[str, str]]:
    """Return what a bento serves."""
    cards, _ = read_models(bento / "src" / "models")
    return cards


def check_bento(bento: Path) -> None:
    """Read a bento as its server will. Raise IntegrityError or BundleError, naming the file, if anything in it was changed."""
    models = bento / "src" / "models"
    if not (models / MODELS).is_file():
        raise BundleError(f"{bento} is no bento of recstill: it has no src/models/{MODELS}.")
    for card in read_models(models)[0]:
        check_card(models, card)
        open_bundle(models / card["bundle"])
    check_online(models, bento / "src" / "online")
    open_store(bento / "src" / "online")
