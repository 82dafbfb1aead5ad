"""recstill reviews …"""

from __future__ import annotations

import click

from recstill.cli.output import output_option, show, show_one


@click.group()
def reviews() -> None:
    """Scores near the threshold, for people to decide."""


@reviews.command("queue")
@output_option
def queue_(output: str) -> None:
    """Take what the decision logs marked for review into the queue; what was changed in a log is named and not believed."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.reviews import queue_reviews

    found, problems = queue_reviews(Platform.open())
    show_one(found, output)
    _refuse(problems)


@reviews.command()
@output_option
def verify(output: str) -> None:
    """Verify every decision log: no line changed, taken out or added, no end cut off, no file missing."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.reviews import verify_logs

    reader = verify_logs(Platform.open())
    show([{"log": name, "decisions": count} for name, count in reader.files.items()], output, "no decision was logged yet")
    for remark in reader.remarks:
        click.echo(remark, err=True)
    _refuse(reader.problems)


@reviews.command("list")
@click.option("--task", help="Only those of a task.")
@click.option("--all", "everything", is_flag=True, help="Also those that are decided.")
@output_option
def list_(task: str | None, everything: bool, output: str) -> None:
    """List the reviews that wait."""
    from recstill.recipes.platform import Platform
    from recstill.registry.reviews import list_reviews

    platform = Platform.open()
    with platform.registry.read() as session:
        rows = list_reviews(session, task, is_open=None if everything else True)
    show(
        [
            {
                "review": row.id, "task": row.task, "model": row.model_version, "subject": row.subject,
                "score": f"{row.score:.4f}", "band": row.band, "scored": f"{row.scored_at:%Y-%m-%d %H:%M}",
                "decision": row.decision or "", "by": row.reviewer or "",
            }
            for row in rows
        ],
        output,
    )  # fmt: skip


@reviews.command()
@click.argument("review", type=int)
@click.argument("decision")
@click.option("--note", default="", help="Why.")
def decide(review: int, decision: str, note: str) -> None:
    """Record your decision about a review. It becomes the label of rows whose outcome is not known."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.reviews import decide_review

    row = decide_review(Platform.open(), review, decision, note)
    click.echo(f"review {row.id}: {row.decision}, by {row.reviewer}")


def _refuse(problems: list[str]) -> None:
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise click.ClickException(f"The decision log is damaged; what could be verified was read:{lines}")
