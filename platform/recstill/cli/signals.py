"""recstill signals …"""

from __future__ import annotations

import click

from recstill.cli.garbage import collect, gc_options
from recstill.cli.output import output_option, show, show_one


@click.group()
def signals() -> None:
    """What teachers said about rows, stored once for all students."""


@signals.command("list")
@click.option("--task", help="Only those of a task.")
@output_option
def list_(task: str | None, output: str) -> None:
    """List all sets of signals with coverage and age."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.signals import list_signals

    show(list_signals(Platform.open(), task), output)


@signals.command("show")
@click.argument("reference", metavar="TASK/TEACHER/SNAPSHOT")
@output_option
def show_(reference: str, output: str) -> None:
    """Show one set of signals and check every part."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.signals import show_signals

    show_one(show_signals(Platform.open(), reference), output)


@signals.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
def score(recipe: str, overrides: tuple[str, ...]) -> None:
    """Train or take the teachers of RECIPE and score its rows, without distilling."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress
    from recstill.recipes.signals import score_recipe

    for reference in score_recipe(Platform.open(), recipe, overrides, Progress()):
        click.echo(reference)


@signals.command()
@gc_options
def gc(dry_run: bool, yes: bool, older_than: float, output: str) -> None:
    """Delete signals whose teacher version or snapshot is gone."""
    collect(["signals"], dry_run, yes, older_than, output)
