"""recstill doctor"""

from __future__ import annotations

import click

from recstill.cli.output import output_option, show


@click.command()
@output_option
def doctor(output: str) -> None:
    """Say what is installed, what is missing, and what to do."""
    from recstill.recipes.doctor import examine
    from recstill.settings import Settings

    findings = examine(Settings.from_environment())
    show(findings, output)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        raise click.ClickException(f"{len(missing)} things are missing; the last column says what to do.")
