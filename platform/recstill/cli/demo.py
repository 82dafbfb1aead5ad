"""recstill demo"""

from __future__ import annotations

import click


@click.command()
@click.option("--task", default="ads", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
def demo(task: str, overrides: tuple[str, ...]) -> None:
    """Do the main job on real data, start to finish: ends with a served score."""
    import json
    import resource

    from recstill.cli.output import show, spread_text
    from recstill.recipes.demo import run_demo
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress

    progress = Progress()
    result = run_demo(Platform.open(), task, list(overrides), progress)
    progress.say(f"done, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    rows = []
    for subject, values in result.run.metrics.items():
        row = {"": subject}
        for name in result.metrics:
            row[name.split(".", 1)[1]] = spread_text(*values[name]) if name in values else ""
        rows.append(row)
    show(rows, "table")
    click.echo(
        f"\nverdict    {result.run.verdict}\npromotion  {result.promotion}\n"
        f"report     {result.run.report}\nbento      {result.bento}"
    )
    click.echo(f"\nrequest    {json.dumps(result.request)}")
    listed = "decisions" if "decisions" in result.response else "scores"
    shown = {**result.response, listed: result.response[listed][:2]}
    click.echo(f"response   {json.dumps(shown, ensure_ascii=False)} … {len(result.response[listed])} in all")
    click.echo(f"\nServe it yourself:  .venv/bin/recstill serve {result.run.student}")
