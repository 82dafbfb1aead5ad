"""What `feature_store.yaml` refers to and is not there."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import yaml

from recstill.api.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Feast expands both; a dollar sign in small letters is more likely part of a password than a variable.
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$([A-Z_][A-Z0-9_]+)\b")


def check_variables(path: Path) -> dict[str, Any]:
    """Return what the file says.

    Raise FeatureError, naming the key, for a variable that is not set: Feast would take its name literally.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FeatureError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise FeatureError(f"{path} must hold keys such as `project` and `registry`.")
    for key, text in _texts(content, ""):
        for match in _VARIABLE.finditer(text):
            name = match[1] or match[2]
            if name not in os.environ:
                raise FeatureError(f"{path}: {key} needs the environment variable {name}, which is not set.")
    return content


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in pairs:
        yield from _texts(part, f"{key}.{name}" if key else str(name))
