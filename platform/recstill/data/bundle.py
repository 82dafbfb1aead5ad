"""The manifest of a bundle: what it is, what it needs, the digest of every file. Needs no torch to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from recstill.api.errors import BundleError, IntegrityError
from recstill.api.task import TaskSpec
from recstill.data.files import check_sha256, read_json, sha256_of, write_json
from recstill.data.sides import Sides

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST = "manifest.json"
ATTRIBUTION = "attribution.onnx"
CARD = "README.md"
FORMAT = 2


class Manifest(BaseModel):
    """`features` is the feature set (views, keys, types), `sides` says which features go to which input of the graph,
    `key_types` how ids and join keys of a request are read.

    part_names, part_means: the terms that the graph gives beside the scores, and their means over the training rows.
    attributed, attributed_from: where a model has no terms of its own, the features that `attribution.onnx` speaks of, and the
    logit that their effects start from. vectors: the graph also gives the vectors `query` and `item`. gates: the bounds that a
    promotion asks the gates with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    task: TaskSpec
    role: str
    model: str
    plugin: str
    options: dict[str, Any]
    run: str
    seed: int
    snapshot: str
    feature_service: str
    fingerprint: str
    features: dict[str, Any]
    sides: Sides
    key_types: dict[str, str]
    num_parameters: int
    packages: dict[str, str]
    part_names: tuple[str, ...] = ()
    part_means: tuple[float, ...] = ()
    attributed: tuple[str, ...] = ()
    attributed_from: float = 0.0
    vectors: bool = False
    gates: dict[str, dict[str, float]] = {}
    files: dict[str, str]

    @property
    def outputs(self) -> list[str]:
        """The graph's outputs: the labels, then what there is beside them."""
        beside = [*(["#parts"] if self.part_names else []), *(["#query", "#item"] if self.vectors else [])]
        return [*(label.name for label in self.task.labels), *beside]


def write_manifest(folder: Path, content: Mapping[str, Any]) -> Manifest:
    """Digest every file of the folder and write the manifest, last."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    manifest = Manifest(**content, files=files)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def open_bundle(folder: Path) -> Manifest:
    """Verify a bundle and return its manifest. Raise BundleError on any mismatch; nothing of it was loaded."""
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}.")
    try:
        content = read_json(folder / MANIFEST)
        if content.get("format") != FORMAT:
            raise BundleError(
                f"{folder} is a bundle of format {content.get('format')}, and this recstill reads format {FORMAT}: it says of "
                "which type each value is. Run its recipe again."
            )
        manifest = Manifest(**content)
    except (ValidationError, ValueError, TypeError, AttributeError, IntegrityError) as error:
        raise BundleError(f"{folder / MANIFEST} is not a manifest of format {FORMAT}: {error}") from error
    try:
        for name, digest in manifest.files.items():
            if Path(name).name != name:
                raise BundleError(f"{folder / MANIFEST} names {name!r}, which is not a plain file name.")
            check_sha256(folder / name, digest, "Fetch the bundle again: `recstill models verify`.")
    except IntegrityError as error:
        raise BundleError(str(error)) from error
    extra = {path.name for path in folder.iterdir()} - set(manifest.files) - {MANIFEST}
    if extra:
        raise BundleError(f"{folder} holds {', '.join(sorted(extra))}, which its manifest does not name.")
    return manifest


def served_size(folder: Path) -> int:
    """Return the bytes that a server loads: all files but the card for people."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != CARD)


def bundle_size(folder: Path) -> int:
    """Return the bytes of all files."""
    return sum(path.stat().st_size for path in folder.iterdir())
