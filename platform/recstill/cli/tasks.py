"""recstill tasks …"""

from __future__ import annotations

import click

from recstill.cli.output import output_option, show, show_one


@click.group()
def tasks() -> None:
    """What can be predicted and served."""


@tasks.command("list")
@output_option
def list_(output: str) -> None:
    """Show all tasks."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.release import describe

    platform = Platform.open()
    rows = [describe(platform, task) for task in platform.catalog("tasks").values()]
    show([{key: row[key] for key in ("name", "labels", "dataset", "endpoint", "plugin")} for row in rows], output)


@tasks.command("show")
@click.argument("name")
@output_option
def show_(name: str, output: str) -> None:
    """Show the task NAME."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.release import describe

    platform = Platform.open()
    show_one(describe(platform, platform.task(name)), output)
