"""recstill package and recstill serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recstill.cli.output import output_option, show_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.recipes.platform import Platform


@click.command()
@click.argument("versions", nargs=-1, required=True)
@output_option
def package(versions: tuple[str, ...], output: str) -> None:
    """Make a bento of VERSIONS (ads@champion): models, features, requirements, one folder."""
    from recstill.recipes.packaging import package as build
    from recstill.recipes.packaging import served_versions
    from recstill.recipes.platform import Platform

    platform = Platform.open()
    bento = build(platform, versions)
    _warn(platform, versions)
    show_one({"bento": bento, "serves": {card["task"]: card["version"] for card in served_versions(bento)}}, output)


@click.command()
@click.argument("versions", nargs=-1)
@click.option("--bento", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Serve this bento instead.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=3000, show_default=True)
@click.option("--workers", default=1, show_default=True)
def serve(versions: tuple[str, ...], bento: Path | None, host: str, port: int, workers: int) -> None:
    """Serve VERSIONS (ads@champion) over HTTP, with the newest materialized features."""
    import os

    from recstill.recipes.leftovers import hold_bento
    from recstill.recipes.packaging import check_bento, served_versions
    from recstill.recipes.packaging import package as build
    from recstill.recipes.platform import Platform
    from recstill.recipes.serving import hold_online, serve_command, serve_environment

    if bool(versions) == bool(bento):
        raise click.UsageError("Name versions such as ads@champion, or give --bento FOLDER.")
    platform = Platform.open()
    folder = bento or build(platform, versions, reuse=True)
    check_bento(folder)
    hold_bento(folder)
    _warn(platform, [card["version"] for card in served_versions(folder)])
    environment = serve_environment(platform, folder, workers)
    hold_online(environment)
    click.echo(f"serving {folder} on http://{host}:{port}", err=True)
    command = serve_command(folder, host, port)
    os.execve(command[0], list(command), environment)


def _warn(platform: Platform, versions: Sequence[str]) -> None:
    from recstill.recipes.gating import ungated

    for sentence in ungated(platform, versions):
        click.echo(f"warning: {sentence}", err=True)
