"""recstill backup and recstill restore."""

from __future__ import annotations

from pathlib import Path

import click

from recstill.cli.output import output_option, show_one


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--with-damage", is_flag=True, help="Also where files of a version are damaged or missing.")
@output_option
def backup(file: Path, with_damage: bool, output: str) -> None:
    """Write everything that an installation knows into FILE, while it is in use.

    Registry, artifacts, signals, snapshots, features, runs and decision logs, as of one moment. The key that masks ids in
    decision logs is in it too: keep it where the logs may lie.
    """
    from recstill.recipes.backup import write_backup
    from recstill.recipes.platform import Platform

    show_one(write_backup(Platform.open(), file, with_damage=with_damage), output)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--force", is_flag=True, help="Move what is in RECSTILL_HOME aside; it is not deleted.")
@output_option
def restore(file: Path, force: bool, output: str) -> None:
    """Bring back what `recstill backup` wrote into FILE.

    It becomes RECSTILL_HOME and the registry at RECSTILL_REGISTRY_URL, once every byte of FILE is checked.
    """
    from recstill.recipes.restoring import restore_backup
    from recstill.settings import Settings

    show_one(restore_backup(Settings.from_environment(), file, force=force), output)
