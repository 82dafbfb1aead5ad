"""recstill run …"""

from __future__ import annotations

import click

from recstill.cli.output import output_option, show


@click.command()
@click.argument("recipe", required=False)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, such as student.training.epochs=2."
)
@click.option("--resume", metavar="RUN", help="Go on with a run that was stopped.")
@click.option("--dry-run", is_flag=True, help="Print the plan: stages, signals, parameters, estimated time and memory.")
@output_option
def run(recipe: str | None, overrides: tuple[str, ...], resume: str | None, dry_run: bool, output: str) -> None:
    """Run RECIPE, a name or a YAML file: pretrain, score, distil, compare, export, register."""
    if bool(recipe) == bool(resume):
        raise click.UsageError("Name a recipe, or give --resume RUN.")
    if resume and (overrides or dry_run):
        raise click.UsageError("A resumed run keeps its recipe: --set and --dry-run do not go with --resume.")
    from recstill.cli.results import show_result
    from recstill.recipes.platform import Platform
    from recstill.recipes.run import plan_recipe, resume_run, run_recipe

    platform = Platform.open()
    if dry_run:
        show([stage.as_row() for stage in plan_recipe(platform, str(recipe), overrides)], output)
        return
    result = resume_run(platform, resume) if resume else run_recipe(platform, str(recipe), overrides)
    show_result(platform, result, output)
