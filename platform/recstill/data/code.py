"""The code and the files that a result was made with, by their content."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recstill.data.files import sha256_of

_BYTECODE = {".pyc", ".pyo"}


def digest_of_tree(path: Path) -> str:
    """Return the sha256 over a file, or over every file of a folder with its name; bytecode and hidden files do not count."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(_files(path)):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def digest_behind(thing: Any) -> str:
    """Return the sha256 over the package, or the module, in which an object's class is written."""
    name = type(thing).__module__
    module, package = sys.modules.get(name), sys.modules.get(name.partition(".")[0])
    is_package = getattr(package, "__file__", None) is not None and "." in name
    origin = Path(getattr(package if is_package else module, "__file__", None) or "")
    return digest_of_tree(origin.parent if origin.name == "__init__.py" else origin) if origin.is_file() else ""


def versions_of(distribution: str) -> dict[str, str]:
    """Return the installed versions of what a distribution requires: a library's new version is other code too."""
    found = {}
    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:  # a plugin that no distribution brought
        required = []
    for requirement in required:
        name = re.match(r"[\w.-]+", requirement)
        if name is not None and not name[0].startswith("recstill"):
            found[name[0]] = _version(name[0])
    return found


def files_behind(thing: Any) -> dict[str, str]:
    """Return {name: sha256} of the source files that an object's code lies in, as far as they are no installed library.

    A task may call functions of files beside its plugin's package; an edit of theirs is an edit of the task. Followed are the
    functions that the object and its class hold, and what the modules of these name: functions, classes, modules.
    """
    held: list[Any] = [*vars(type(thing)).values(), *getattr(thing, "__dict__", {}).values()]
    held += [item for value in held if isinstance(value, Mapping) for item in value.values()]
    spaces = [value.__globals__ for value in held if isinstance(value, types.FunctionType)]
    paths = {Path(value.__code__.co_filename) for value in held if isinstance(value, types.FunctionType)}
    while spaces:
        for module in _modules_named(spaces.pop()):
            path = Path(getattr(module, "__file__", None) or "")
            if path.suffix == ".py" and path not in paths and not _is_library(path):
                paths.add(path)
                spaces.append(vars(module))
    return {path.name: sha256_of(path) for path in sorted(paths) if path.is_file() and not _is_library(path)}


def _modules_named(space: Mapping[str, Any]) -> Iterator[types.ModuleType]:
    for value in list(space.values()):
        if isinstance(value, types.ModuleType):
            yield value
        elif isinstance(value, (types.FunctionType, type)) and value.__module__ in sys.modules:
            yield sys.modules[value.__module__]


def _is_library(path: Path) -> bool:
    """Whether a file is Python's own, an installed distribution's, or recstill's: other parts of a key say what these are."""
    folders = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")]
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in [*folders, Path(__file__).parents[1]])


def files_in(options: Any, place: str = "") -> dict[str, str]:
    """Return {place: sha256} of every file or folder that options name: a value that is the path of something there."""
    found = {}
    for name, text in _texts(options, place):
        if _looks_like_a_path(text) and (path := Path(text).expanduser()).exists():
            found[f"{name} ({path.name})"] = digest_of_tree(path)
    return found


def _looks_like_a_path(text: str) -> bool:
    return 1 < len(text) < 1024 and ("/" in text or "\\" in text or bool(Path(text).suffix)) and "\0" not in text


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, Sequence):
        for index, item in enumerate(value):
            yield from _texts(item, f"{place}.{index}")


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix in _BYTECODE:
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
