"""recstill gc, and the gc of models and signals."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from recstill.cli.output import output_option, show

F = TypeVar("F", bound=Callable[..., Any])


def gc_options(function: F) -> F:
    """Add the options of a command that collects garbage."""
    age = click.option(
        "--older-than",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        metavar="DAYS",
        help="Leave what is newer.",
    )
    ask = click.option("--yes", is_flag=True, help="Do not ask.")
    dry = click.option("--dry-run", is_flag=True, help="Only list what would go.")
    return dry(ask(age(output_option(function))))


@click.command()
@gc_options
def gc(dry_run: bool, yes: bool, older_than: float, output: str) -> None:
    """Delete what nobody needs: unused artifacts and signals, bentos that `serve` made, what stopped commands left."""
    from recstill.recipes.garbage import KINDS

    collect(KINDS, dry_run, yes, older_than, output)


def collect(kinds: Collection[str], dry_run: bool, yes: bool, older_than: float, output: str) -> None:
    """List the garbage of some kinds, ask, and delete what was listed and is garbage still."""
    from datetime import timedelta

    from recstill.recipes.garbage import collect_garbage, find_garbage
    from recstill.recipes.platform import Platform

    platform, grace = Platform.open(), timedelta(days=older_than)
    found = find_garbage(platform, kinds, grace)
    show(found, output, "no garbage")
    going = [one for one in found if one.goes]
    if dry_run or not going:
        return
    if not yes:
        size = sum(one.bytes for one in going) / 1e6
        click.confirm(f"Delete the {len(going)} that go ({size:.1f} MB)?", abort=True, err=True)
    gone = collect_garbage(platform, going, grace)
    click.echo(f"deleted {len(gone)} of {len(found)} listed", err=True)
    if len(gone) < len(going):
        click.echo(f"{len(going) - len(gone)} were used or changed meanwhile, and stayed", err=True)
