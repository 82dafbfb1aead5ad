"""recstill sweep …"""

from __future__ import annotations

from pathlib import Path

import click

from recstill.cli.output import output_option, show


@click.command()
@click.argument("experiment", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("evidence"), show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key in every variant.")
@output_option
def sweep(experiment: Path, out: Path, overrides: tuple[str, ...], output: str) -> None:
    """Run the variants of EXPERIMENT, a YAML file, and write their table as JSON and a page. Finished runs are kept."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress
    from recstill.recipes.sweep import load_experiment, run_sweep, table_of

    result = run_sweep(Platform.open(), experiment, out, Progress(), overrides)
    show(table_of(result, load_experiment(experiment).order), output)
    if output == "table" and result["claims"]:
        click.echo()
        show([{**claim, "met": "yes" if claim["met"] else "NO"} for claim in result["claims"]], output)
        click.echo(f"\npage  {out / result['name']}.html")
