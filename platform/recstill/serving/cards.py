"""`models.json` of a bento: what it serves, and the digests by which everything else in it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recstill.api.errors import IntegrityError
from recstill.data.bundle import MANIFEST
from recstill.data.files import check_sha256, read_card, read_json, write_card

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MODELS = "models.json"
_WAY_OUT = "Package the version again."


def write_models(models: Path, cards: Sequence[dict[str, str]], online: str) -> None:
    """Write what a bento serves. online: the digest of its card of features, which names the digests of their files."""
    write_card(models / MODELS, {"models": list(cards), "online": online})


def read_models(models: Path) -> tuple[list[dict[str, str]], str | None]:
    """Return the cards of the models, and the digest of the card of features. Raise IntegrityError for a changed file.

    Bentos of earlier versions hold a list of cards only.
    """
    found: Any = read_json(models / MODELS, _WAY_OUT)
    if isinstance(found, list):
        return found, None
    found = read_card(models / MODELS, _WAY_OUT)
    if not isinstance(found.get("models"), list):
        raise IntegrityError(f"{models / MODELS} is damaged: it names no models. {_WAY_OUT}")
    return found["models"], found.get("online")


def check_card(models: Path, card: dict[str, str]) -> None:
    """Raise IntegrityError if the manifest of a model, or its file of item vectors, is not the one that its card names."""
    if "sha256" in card:
        check_sha256(models / card["bundle"] / MANIFEST, card["sha256"], _WAY_OUT)
    if "vectors" in card:
        check_sha256(models / card["vectors"], card["vectors_sha256"], _WAY_OUT)


def check_online(models: Path, online: Path) -> None:
    """Raise IntegrityError if the features that a bento brings are not those that it was made with."""
    digest = read_models(models)[1]
    if digest is not None and online.resolve() == (models.parent / "online").resolve():
        check_sha256(online / "online.json", digest, _WAY_OUT)
