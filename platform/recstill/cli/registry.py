"""recstill registry …"""

from __future__ import annotations

import click


@click.group()
def registry() -> None:
    """The database of what exists, where it came from and what is live."""


@registry.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def init(yes: bool) -> None:
    """Begin an empty registry where an earlier one is lost.

    A fresh home needs no such call. Artifacts, runs and signals of the earlier registry stay, but nothing knows them.
    """
    from recstill.registry.address import shown
    from recstill.registry.engine import open_registry
    from recstill.settings import Settings

    if not yes:
        click.confirm("Begin a registry that knows nothing of what is stored already?", abort=True, err=True)
    opened = open_registry(Settings.from_environment(), anew=True)
    state = "made" if opened.is_new else "kept, it is one already:"
    click.echo(f"{state} {shown(opened.engine.url)}")
