"""The modules that code imports and that no installed library brings: an edit of theirs is an edit of the code."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_OWN = Path(__file__).parents[1]


def imported_by(code: Path) -> dict[str, Path]:
    """Return {module: its file, or its package's folder} of all that a module or a package imports, however far down.

    Read from the import statements, wherever they stand: a function may import late, and `from rows import LIMIT` leaves no
    trace in an object. Not followed are Python's own modules, installed libraries and recstill: versions say what these are.
    """
    found: dict[str, Path] = {}
    waiting = [code]
    while waiting:
        for name in sorted(_names_in(waiting.pop())):
            module, path = _place_of(name)
            if path is None or module in found or path == code or is_library(path):
                continue
            found[module] = path
            waiting.append(path)
    return found


def is_library(path: Path) -> bool:
    """Whether a file is Python's own, an installed distribution's, or recstill's."""
    folders = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")]
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in [*folders, _OWN])


def _names_in(code: Path) -> set[str]:
    """The absolute names that the files of a package, or one module, import."""
    names: set[str] = set()
    for path in sorted(code.rglob("*.py")) if code.is_dir() else [code]:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # nobody can import from it either
        names |= set(_imports(tree))
    return names


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # In a package without an __init__, what is imported may be a module itself.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _place_of(name: str) -> tuple[str, Path | None]:
    """Return the outermost module of a dotted name that has a file, and that file or its package's folder."""
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return parts[0], None
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError, AttributeError):
        return parts[0], None
    if spec is None:
        return parts[0], None
    if spec.origin is not None:
        origin = Path(spec.origin)
        is_file = origin.is_file()
        return parts[0], (origin.parent if origin.name == "__init__.py" else origin) if is_file else None
    return _below(parts, [Path(folder) for folder in spec.submodule_search_locations or ()])


def _below(parts: list[str], folders: list[Path]) -> tuple[str, Path | None]:
    """Go down a package without an __init__: its folders lie anywhere, each with some of its modules."""
    for depth, part in enumerate(parts[1:], 2):
        name = ".".join(parts[:depth])
        for folder in folders:
            if (folder / part / "__init__.py").is_file():
                return name, folder / part
            if (folder / f"{part}.py").is_file():
                return name, folder / f"{part}.py"
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
    return ".".join(parts), None
