"""The command line: noun, then verb. Only click is imported at the top; commands import what they call."""

from __future__ import annotations

import os
import sys

import click

from recstill import __version__
from recstill.api.errors import RecstillError
from recstill.cli.audit import audit
from recstill.cli.backup import backup, restore
from recstill.cli.data import data
from recstill.cli.demo import demo
from recstill.cli.doctor import doctor
from recstill.cli.failures import DEBUG, in_words
from recstill.cli.features import features
from recstill.cli.garbage import gc
from recstill.cli.models import models
from recstill.cli.narrow import write_what_fits
from recstill.cli.plugins import plugins
from recstill.cli.registry import registry
from recstill.cli.reviews import reviews
from recstill.cli.run import run
from recstill.cli.runs import runs
from recstill.cli.serve import package, serve
from recstill.cli.signals import signals
from recstill.cli.sweep import sweep
from recstill.cli.tasks import tasks
from recstill.cli.tune import tune


class _Main(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in self.commands and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.commands, n=1)
            raise click.UsageError(f"No such command {args[0]!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RecstillError as error:
            raise click.ClickException(str(error)) from error
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise  # click's own way to end
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            raise click.ClickException(in_words(error)) from error


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="recstill")
def cli() -> None:
    """Distil large recommendation, search and risk models into small, fast ones, and serve them."""


for command in (
    audit,
    backup,
    data,
    demo,
    doctor,
    features,
    gc,
    models,
    package,
    plugins,
    registry,
    restore,
    reviews,
    run,
    runs,
    serve,
    signals,
    sweep,
    tasks,
    tune,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    # Spinning OpenMP threads cost up to 100 x on a shared core; this must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Registry migrations, feast and bentoml log to stderr as they please; what matters is raised.
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    write_what_fits()
    cli()
