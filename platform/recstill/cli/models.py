"""recstill models …"""

from __future__ import annotations

from pathlib import Path

import click

from recstill.cli.garbage import collect, gc_options
from recstill.cli.output import metric_cell, output_option, show, show_one


@click.group()
def models() -> None:
    """Registered models: versions, aliases, lineage."""


@models.command("list")
@click.argument("name", required=False)
@output_option
def list_(name: str | None, output: str) -> None:
    """Show versions, of all models or of NAME."""
    from recstill.recipes.platform import Platform
    from recstill.registry.versions import aliases_of, list_versions

    platform = Platform.open()
    rows = []
    with platform.registry.read() as session:
        for version in list_versions(session, name):
            aliases = [alias for alias, number in aliases_of(session, version.model_name).items() if number == version.number]
            rows.append(
                {
                    "version": f"{version.model_name}:{version.number}",
                    "aliases": ", ".join(sorted(aliases)),
                    "parameters": version.num_parameters,
                    "bytes": version.size_bytes,
                    "run": version.run_id,
                    "created": f"{version.created_at:%Y-%m-%d %H:%M}",
                }
            )
    show(rows, output, "no model yet: `recstill run ads`")


@models.command("show")
@click.argument("version")
@output_option
def show_(version: str, output: str) -> None:
    """Show VERSION (NAME:7, NAME@champion): where it lies, its metrics, its features."""
    from recstill.recipes.platform import Platform
    from recstill.registry.versions import feature_set_of, find_version

    platform = Platform.open()
    with platform.registry.read() as session:
        row = find_version(session, version)
        features = feature_set_of(session, row)
    show_one(
        {
            "version": f"{row.model_name}:{row.number}",
            "run": row.run_id,
            "artifact": row.artifact,
            "bytes": row.size_bytes,
            "parameters": row.num_parameters,
            "features": f"{features.service} ({features.fingerprint})",
            "metrics": {name: metric_cell(value, output) for name, value in sorted(row.measured.items())},
            **({"undefined": row.undefined} if row.undefined or output == "json" else {}),
        },
        output,
    )


@models.command()
@click.argument("versions", nargs=-1, required=True)
@output_option
def compare(versions: tuple[str, ...], output: str) -> None:
    """Show the metrics of VERSIONS side by side."""
    from recstill.recipes.platform import Platform
    from recstill.registry.versions import find_version

    platform = Platform.open()
    with platform.registry.read() as session:
        found = {f"{v.model_name}:{v.number}": v.measured for v in (find_version(session, name) for name in versions)}
    names = sorted({name for metrics in found.values() for name in metrics})
    show(
        [
            {"metric": name, **{version: metric_cell(metrics.get(name), output) for version, metrics in found.items()}}
            for name in names
        ],
        output,
    )


@models.command()
@click.argument("version")
@click.option("--alias", default="champion", show_default=True)
@click.option("--reason", default="", help="Kept in the audit log.")
@click.option("--dry-run", is_flag=True, help="Only ask the gates.")
@output_option
def promote(version: str, alias: str, reason: str, dry_run: bool, output: str) -> None:
    """Point an alias at VERSION; champion only through the gates."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.release import promote as promote_version

    show_one(promote_version(Platform.open(), version, alias, reason, dry_run), output)


@models.command("alias")
@click.argument("version")
@click.argument("alias")
@output_option
def alias_(version: str, alias: str, output: str) -> None:
    """Point ALIAS (challenger, shadow …) at VERSION."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.release import promote as promote_version

    show_one(promote_version(Platform.open(), version, alias, "alias"), output)


@models.command()
@click.argument("name")
def rollback(name: str) -> None:
    """Make the previous champion of NAME champion again."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.release import rollback as roll_back

    new, old = roll_back(Platform.open(), name)
    click.echo(f"{name}:{new} is champion again, {name}:{old} is previous")


@models.command()
@click.argument("version")
@output_option
def lineage(version: str, output: str) -> None:
    """Show what VERSION was made of."""
    from recstill.recipes.platform import Platform
    from recstill.registry.versions import find_version, lineage_of

    platform = Platform.open()
    with platform.registry.read() as session:
        rows = lineage_of(session, find_version(session, version))
    show(
        [
            {"relation": r.relation, "value": r.value, "details": ", ".join(f"{k} {v}" for k, v in r.details.items())}
            for r in rows
        ],
        output,
    )


@models.command()
@click.argument("version", required=False)
@output_option
def verify(version: str | None, output: str) -> None:
    """Check the stored bytes of VERSION, or of every version."""
    from recstill.recipes.platform import Platform
    from recstill.recipes.release import verify_versions

    rows = verify_versions(Platform.open(), version)
    show(rows, output, "no version yet")
    if bad := [row for row in rows if row["state"] != "ok"]:
        raise click.ClickException(f"{len(bad)} of {len(rows)} versions are damaged.")


@models.command()
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path))
def export(version: str, folder: Path) -> None:
    """Copy the verified bundle of VERSION into FOLDER."""
    import shutil

    from recstill.data.bundle import open_bundle
    from recstill.recipes.platform import Platform
    from recstill.registry.versions import find_version

    if folder.exists():
        raise click.ClickException(f"{folder} exists already.")
    platform = Platform.open()
    with platform.registry.read() as session:
        row = find_version(session, version)
    source = platform.artifacts.get(row.artifact)
    open_bundle(source)
    shutil.copytree(source, folder)
    click.echo(str(folder))


@models.command()
@gc_options
def gc(dry_run: bool, yes: bool, older_than: float, output: str) -> None:
    """Delete stored artifacts that this registry knew and no version names any more."""
    collect(["artifact"], dry_run, yes, older_than, output)
