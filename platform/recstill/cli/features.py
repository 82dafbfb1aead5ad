"""recstill features …"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recstill.cli.output import output_option, show, show_one

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


@click.group()
def features() -> None:
    """The feature store: definitions, online values, who uses what."""


def _scope_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command work on some views only: those named, and those that a task or a model version needs."""
    command = click.option("--model", "models", multiple=True, help="What a version needs, such as ads@champion.")(command)
    command = click.option("--task", "tasks", multiple=True, help="What a task needs. Default: everything.")(command)
    return click.argument("views", nargs=-1)(command)


@features.command()
@_scope_options
@output_option
def plan(views: tuple[str, ...], tasks: tuple[str, ...], models: tuple[str, ...], output: str) -> None:
    """Show what `apply` would change, for all or some VIEWS; nothing is written."""
    from recstill.recipes.feature_scope import scope_of
    from recstill.recipes.features import plan_features
    from recstill.recipes.platform import Platform

    platform = Platform.open()
    show(plan_features(platform, scope_of(platform, views, tasks, models)), output, "no changes")


@features.command()
@_scope_options
@click.option("--dry-run", is_flag=True, help="Only show the changes.")
@click.option("--yes", is_flag=True, help="Also delete what recstill created and is no longer defined, without asking.")
@output_option
def apply(
    views: tuple[str, ...], tasks: tuple[str, ...], models: tuple[str, ...], dry_run: bool, yes: bool, output: str
) -> None:
    """Build missing sources and apply feature_repo/ and what plugins define, or some VIEWS of it."""
    from recstill.recipes.feature_scope import scope_of
    from recstill.recipes.features import apply_features, plan_features
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress

    platform = Platform.open()
    scope = scope_of(platform, views, tasks, models)
    changes = plan_features(platform, scope)
    deleted = [change for change in changes if change.action == "delete"]
    if not dry_run:
        if deleted:
            words = [f"{c.kind} {c.name}" + (f" (used by {c.used_by})" if c.used_by else "") for c in deleted]
            click.echo(f"This deletes, with its online values: {', '.join(words)}.", err=True)
        if deleted and not yes:
            click.confirm("Go on?", abort=True, err=True)
        changes = apply_features(platform, Progress().say, scope, {(c.kind, c.name) for c in deleted})
    show(changes, output, "no changes")


@features.command()
@_scope_options
@click.option("--until", type=click.DateTime(), help="Values as of this moment (UTC); default: the newest.")
@output_option
def materialize(
    views: tuple[str, ...], tasks: tuple[str, ...], models: tuple[str, ...], until: datetime | None, output: str
) -> None:
    """Write the newest values, of all or some VIEWS, to the online store and pack them for serving."""
    from recstill.recipes.feature_scope import scope_of
    from recstill.recipes.features import materialize_features
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress

    platform = Platform.open()
    done = materialize_features(platform, until, Progress().say, scope_of(platform, views, tasks, models))
    failed = done.pop("failed")
    show_one(done, output)
    if failed:
        reasons = "\n".join(f"  - {view}: {reason}" for view, reason in failed.items())
        raise click.ClickException(f"{len(failed)} of the views failed and keep the values they had:\n{reasons}")


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
