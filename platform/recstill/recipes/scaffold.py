"""`recstill plugins new`: a working plugin distribution with a passing test."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from recstill.api.errors import PluginError

_TEMPLATES = Path(__file__).parent / "templates"


def write_plugin(name: str, kind: str, into: Path) -> Path:
    """Write a distribution `recstill-NAME` below `into` and return its folder. Nothing that exists is overwritten."""
    plain = name.removeprefix("recstill-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", plain):
        raise PluginError(f"{name!r} cannot name a plugin: lower-case letters, digits and single dashes, such as tiny-tower.")
    folder = into / f"recstill-{plain}"
    if folder.exists():
        raise PluginError(f"{folder} exists already; choose another name or --into another folder.")
    words = {
        "name": plain,
        "distribution": f"recstill-{plain}",
        "package": f"recstill_{plain.replace('-', '_')}",
        "cls": "".join(part.capitalize() for part in plain.split("-")),
        "kind": kind,
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"src/{words['package']}/__init__.py": f"{kind}_init.py",
        f"src/{words['package']}/{kind}.py": f"{kind}.py",
        f"tests/test_{words['package']}.py": "test_plugin.py",
    }
    for target, template in files.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template((_TEMPLATES / f"{template}.txt").read_text()).substitute(words))
    return folder
