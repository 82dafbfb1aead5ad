"""recstill plugins …"""

from __future__ import annotations

from pathlib import Path

import click

from recstill.cli.output import output_option, show, show_one


@click.group()
def plugins() -> None:
    """Find, check, register and write plugins."""


@plugins.command("list")
@output_option
def list_(output: str) -> None:
    """Show every installed or registered plugin, broken ones too."""
    from recstill.recipes.plugins import list_all
    from recstill.settings import Settings

    show(list_all(Settings.from_environment()), output, "no plugin is installed")


@plugins.command("show")
@click.argument("name")
@output_option
def show_(name: str, output: str) -> None:
    """Show what the plugin NAME offers."""
    from recstill.recipes.plugins import describe
    from recstill.settings import Settings

    show_one(describe(Settings.from_environment(), name), output)


@plugins.command()
@click.argument("name")
@output_option
def check(name: str, output: str) -> None:
    """Run the conformance kit on everything that the plugin NAME offers."""
    from recstill.recipes.plugins import check_plugin

    results = check_plugin(name)
    show(results, output)
    failed = [result for result in results if not result.passed]
    if not results:
        raise click.ClickException(f"Plugin {name!r} offers nothing that can be checked; its hooks load.")
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(results)} checks failed.")
    click.echo(f"{len(results)} checks passed.", err=True)


@plugins.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Register it even if the quick part of `plugins check` fails.")
def register(name: str, force: bool) -> None:
    """Check the installed plugin NAME quickly, write it into the registry and let it take part."""
    from recstill.recipes.plugins import register_installed
    from recstill.settings import Settings

    row = register_installed(Settings.from_environment(), name, force=force)
    click.echo(f"{row.distribution} {row.version} is registered and enabled ({row.digest[:12]})")


@plugins.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let the registered plugin NAME take part."""
    _set(name, True)


@plugins.command()
@click.argument("name")
def disable(name: str) -> None:
    """Keep the registered plugin NAME out of training and serving."""
    _set(name, False)


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["student", "teacher", "strategy"]), required=True)
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="The folder to write into.")
def new(name: str, kind: str, into: Path) -> None:
    """Write a working plugin distribution NAME with a passing test."""
    from recstill.recipes.scaffold import write_plugin

    folder = write_plugin(name, kind, into)
    click.echo(
        f"{folder} is ready. Next:\n  pip install -e {folder}\n  pytest {folder}\n  recstill plugins register {folder.name}"
    )


def _set(name: str, enabled: bool) -> None:
    from recstill.recipes.plugins import switch
    from recstill.settings import Settings

    switch(Settings.from_environment(), name, enabled)
    click.echo(f"{name} is {'enabled' if enabled else 'disabled'}")
