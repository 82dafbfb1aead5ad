"""What a name may look like: of models, aliases, recipes and everything else that a person makes up."""

from __future__ import annotations

import re

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}\Z")
NAME_RULE = "lower-case ASCII letters, digits, '.', '_' and '-', at most 100, the first a letter or a digit"


def is_name(text: str) -> bool:
    """Say whether a text may be a name. Names end up in paths, addresses and databases: they look the same in all of them."""
    return NAME.match(text) is not None
