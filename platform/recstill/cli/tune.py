"""recstill tune …"""

from __future__ import annotations

import math

import click

from recstill.cli.output import output_option, show


@click.command()
@click.argument("recipe")
@click.option("--trials", default=20, show_default=True, type=click.IntRange(min=1), help="Until the study has so many.")
@click.option("--space", multiple=True, metavar="KEY=LOW:HIGH", help="Such as 0.weight=0.1:10 or 0.temperature=1:4.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
@output_option
def tune(recipe: str, trials: int, space: tuple[str, ...], overrides: tuple[str, ...], output: str) -> None:
    """Search strategy weights and temperatures of RECIPE on the validation split. Called again, it goes on."""
    chosen = {}
    for text in space:
        key, _, ends = text.partition("=")
        try:
            low, high = (float(end) for end in ends.split(":"))
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: write KEY=LOW:HIGH", param_hint="--space") from error
        if not (math.isfinite(low) and math.isfinite(high)):
            raise click.BadParameter(f"{text!r}: the ends are finite numbers", param_hint="--space")
        if key in chosen:
            raise click.BadParameter(f"{key!r} comes twice; leave one", param_hint="--space")
        chosen[key] = (low, high)
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress
    from recstill.recipes.tuning import tune as search

    found = search(Platform.open(), recipe, overrides, trials, chosen or None, Progress())
    show(found.trials, output)
    if output == "table":
        click.echo(f"\nbest  {found.best_score:.4f}\nuse   recstill run {recipe} {found.overrides}")
