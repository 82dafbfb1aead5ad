"""recstill features …"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recstill.cli.output import output_option, show, show_one

if TYPE_CHECKING:
    from datetime import datetime


@click.group()
def features() -> None:
    """The feature store: definitions, online values, who uses what."""


@features.command()
@output_option
def plan(output: str) -> None:
    """Show what `apply` would change."""
    from recstill.recipes.features import plan_features
    from recstill.recipes.platform import Platform

    show(plan_features(Platform.open()), output, "no changes")


@features.command()
@click.option("--dry-run", is_flag=True, help="Only show the changes.")
@click.option("--yes", is_flag=True, help="Also delete what is no longer defined, without asking.")
@output_option
def apply(dry_run: bool, yes: bool, output: str) -> None:
    """Build missing sources and apply feature_repo/ and what plugins define."""
    from recstill.recipes.features import apply_features, plan_features
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress

    platform = Platform.open()
    changes = plan_features(platform)
    deleted = [change.name for change in changes if change.action == "delete"]
    if not dry_run:
        if deleted and not yes:
            click.confirm(f"This deletes {', '.join(deleted)}. Go on?", abort=True, err=True)
        changes = apply_features(platform, Progress().say)
    show(changes, output, "no changes")


@features.command()
@click.option("--until", type=click.DateTime(), help="Values as of this moment (UTC); default: the newest.")
@output_option
def materialize(until: datetime | None, output: str) -> None:
    """Write the newest values to the online store and pack them for serving."""
    from recstill.recipes.features import materialize_features
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress

    progress = Progress()
    show_one(materialize_features(Platform.open(), until, progress.say), output)


@features.command("list")
@output_option
def list_(output: str) -> None:
    """The feature registry: type, view, owner, availability, freshness, users."""
    from recstill.recipes.features import list_features
    from recstill.recipes.platform import Platform

    show(list_features(Platform.open()), output, "nothing is applied: `recstill features apply`")


@features.command("show")
@click.argument("name")
@output_option
def show_(name: str, output: str) -> None:
    """Show a feature, or all features of a view."""
    from recstill.recipes.features import list_features
    from recstill.recipes.platform import Platform

    show(list_features(Platform.open(), name), output)


@features.command()
@click.option("--rows", default=1000, show_default=True, help="Random entities per view.")
@output_option
def verify(rows: int, output: str) -> None:
    """Compare the online store and the packed arrays with the offline truth."""
    from recstill.recipes.features import verify_features
    from recstill.recipes.platform import Platform

    checks = verify_features(Platform.open(), rows)
    show(checks, output)
    wrong = sum(check.online_differences + check.packed_differences for check in checks)
    if wrong:
        raise click.ClickException(f"{wrong} values differ. Run `recstill features materialize`.")
    click.echo("online, packed and offline values agree", err=True)
