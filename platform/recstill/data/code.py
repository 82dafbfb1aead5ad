"""The code and the files that a result was made with, by their content."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recstill.api.errors import ConfigError
from recstill.data.files import sha256_of
from recstill.data.imports import imported_by, is_library

_BYTECODE = {".pyc", ".pyo"}


def digest_of_tree(path: Path) -> str:
    """Return the sha256 over a file, or over every file of a folder with its name; bytecode and hidden files do not count."""
    if not path.is_dir():
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
    if not origin.is_file():
        return ""
    code = origin.parent if origin.name == "__init__.py" else origin
    found = {"code": digest_of_tree(code), **modules_beside(code)}
    return found["code"] if len(found) == 1 else hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def code_of(code: Path, distribution: str) -> dict[str, str]:
    """Everything that a plugin's code is, by content or version: its package, what it imports beside that, its libraries."""
    return {"code": digest_of_tree(code), **modules_beside(code), **versions_of(distribution)}


def modules_beside(code: Path) -> dict[str, str]:
    """Return {module: sha256} of what code imports that is no installed library."""
    return {f"module {name}": digest_of_tree(path) for name, path in imported_by(code).items()}


def versions_of(distribution: str) -> dict[str, str]:
    """Return the installed versions of a distribution and of what it requires: a library's new version is other code too."""
    found = {"version": _version(distribution)}
    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:  # a plugin that no distribution brought
        required = []
    for requirement in required:
        name = re.match(r"[\w.-]+", requirement)
        if name is not None and name[0].lower() != "recstill":  # its own code is read, file by file
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
            if path.suffix == ".py" and path not in paths and not is_library(path):
                paths.add(path)
                spaces.append(vars(module))
    return {path.name: sha256_of(path) for path in sorted(paths) if path.is_file() and not is_library(path)}


def _modules_named(space: Mapping[str, Any]) -> Iterator[types.ModuleType]:
    for value in list(space.values()):
        if isinstance(value, types.ModuleType):
            yield value
        elif isinstance(value, (types.FunctionType, type)) and value.__module__ in sys.modules:
            yield sys.modules[value.__module__]


def files_in(options: Any, place: str = "") -> dict[str, str]:
    """Return {place: sha256} of every file or folder that options name: a value that is the path of something there.

    Raise ConfigError, naming the option, for a file that cannot be read.
    """
    found = {}
    for name, text in _texts(options, place):
        path = _path_of(text)
        if path is None:
            continue
        try:
            found[f"{name} ({path.name})"] = digest_of_tree(path)
        except OSError as error:
            raise ConfigError(name, [f"{text} cannot be read: {error.strerror or error}"]) from error
    return found


def _path_of(text: str) -> Path | None:
    """Return the file or folder that a text names, if it does: a word may be a file, a folder is written as a path."""
    if not 1 < len(text) < 1024 or "\0" in text:
        return None
    try:
        path = Path(text).expanduser()
        if path.is_file():
            return path
        is_folder = ("/" in text or "\\" in text or bool(path.suffix)) and path.is_dir()
        # A separator such as // or ../ names a folder too, with a whole disk below it: no model or data lies there.
        return path if is_folder and path.resolve() not in Path.cwd().parents else None
    except (OSError, RuntimeError):  # a folder that we may not see; a user's home that nobody has
        return None


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, Sequence):
        for index, item in enumerate(value):
            yield from _texts(item, f"{place}.{index}")


def _files(folder: Path, within: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file below a folder. Links are followed, but for those that lead back to a folder that they lie in."""
    within |= {folder.resolve()}
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix in _BYTECODE:
            continue
        if path.is_dir() and path.resolve() not in within:
            yield from _files(path, within)
        elif path.is_file():
            yield path


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
