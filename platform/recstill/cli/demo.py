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

    from recstill.cli.results import headline, show_metrics, task_of
    from recstill.recipes.demo import run_demo
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress

    progress = Progress()
    platform = Platform.open()
    result = run_demo(platform, task, list(overrides), progress)
    progress.say(f"done, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    show_metrics(result.run.metrics, headline(task_of(platform, result.run.run_id), result.run.metrics))
    click.echo(
        f"\nverdict    {result.run.verdict}\npromotion  {result.promotion}\n"
        f"report     {result.run.report}\nbento      {result.bento}"
    )
    click.echo(f"\nrequest    {json.dumps(result.request)}")
    listed = "decisions" if "decisions" in result.response else "scores"
    shown = {**result.response, listed: result.response[listed][:2]}
    click.echo(f"response   {json.dumps(shown, ensure_ascii=False)} … {len(result.response[listed])} in all")
    click.echo(f"\nServe it yourself:  .venv/bin/recstill serve {result.run.student}")
