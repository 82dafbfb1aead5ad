"""recstill audit …"""

from __future__ import annotations

import click

from recstill.cli.output import output_option, show


@click.group()
def audit() -> None:
    """Who did what."""


@audit.command("list")
@click.option("--subject", help="Only subjects that begin with this.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000))
@output_option
def list_(subject: str | None, limit: int, output: str) -> None:
    """Show the audit log, newest first."""
    from recstill.recipes.platform import Platform
    from recstill.registry.audit import list_audit

    platform = Platform.open()
    with platform.registry.read() as session:
        rows = list_audit(session, subject, limit)
    show(
        [
            {
                "at": f"{row.at:%Y-%m-%d %H:%M:%S}",
                "actor": row.actor,
                "action": row.action,
                "subject": row.subject,
                "details": ", ".join(f"{k} {v}" for k, v in row.details.items()),
            }
            for row in rows
        ],
        output,
        "nothing yet",
    )
