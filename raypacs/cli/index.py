"""Commands `index ...`: move, back up, restore the index, and make it agree with the tiers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raypacs.cli.session import (
    Exit,
    Json,
    Session,
    agreed,
    amount,
    columns,
    moment,
    session_of,
)
from raypacs.cli.settings import read_settings
from raypacs.maintenance.backup import backup_index, restore_index
from raypacs.maintenance.migrate import migrate_index
from raypacs.maintenance.rebuild import (
    Reinventory,
    rebuild_index,
    reconcile_index,
    sweep_index,
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Though other nodes were heard just now: they crashed for sure."),
]

_NUMBERS = frozenset({"objects"})

app = typer.Typer(help="The index: move, back up, restore, rebuild.", no_args_is_help=True)


@app.command()
def migrate(
    context: typer.Context,
    to: Annotated[
        str, typer.Option(metavar="URL", help="Empty database: postgresql://USER@HOST/DATABASE.")
    ],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Move the index into an empty database, without importing anything again. Node down."""
    session = session_of(context, as_json)
    with session.stderr.status("moving the index ...") as shown:

        def progress(table: str, rows: int) -> None:
            shown.update(f"moving the index: {table}, {rows:,} rows")

        moved = migrate_index(
            session.bootstrap, to, now=time.time(), progress=progress, force=force
        )
    total = sum(moved.rows.values())
    session.emit(
        asdict(moved),
        f"{total:,} rows are in {escape(moved.target)} after {moved.seconds:.1f} s.\n"
        "Set index_url to it in raypacs.toml of every node, then start them; "
        f"{escape(moved.source)} is not claimed by any master any more.",
    )


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to write; must not be there.")],
    as_json: Json = False,
) -> None:
    """Back the index up into a file, whether the node runs or not. It names patients: keep it safe.

    An index on PostgreSQL is backed up with pg_dump; the command is named.
    """
    session = session_of(context, as_json)
    with session.stderr.status("copying the index ..."):
        done = backup_index(session.bootstrap, file, now=time.time())
    session.emit(
        asdict(done),
        f"{escape(str(done.path))}: {amount(done.size_bytes)}, epoch {done.epoch}, "
        f"as of {moment(done.taken_s)}",
    )


@app.command()
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Backup to restore.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a backup the index. Node down; the index that was there is kept beside it.

    Nothing is deleted from the tiers until `raypacs index reconcile` has compared the two.
    """
    session = session_of(context, as_json)
    with session.stderr.status("restoring the index ..."):
        done = restore_index(session.bootstrap, file, now=time.time(), force=force)
    kept = f"; what was there is {escape(str(done.replaced))}" if done.replaced else ""
    session.emit(
        asdict(done),
        f"{escape(str(done.path))} is the backup of {moment(done.taken_s)} now{kept}.\n"
        "Nothing is deleted until `raypacs index reconcile` has compared it with the tiers.",
    )


@app.command()
def rebuild(
    context: typer.Context,
    settings: Annotated[
        Path | None,
        typer.Option(help="Settings of the site, as exported. Default: those in the index."),
    ] = None,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make the index again from what lies on the tiers. Node down; the index must be empty.

    Nothing on a tier is moved or deleted; what could not be placed is listed, with the reason.
    """
    session = session_of(context, as_json)
    site = read_settings(settings)[1] if settings is not None else None
    with _counting(session) as progress:
        found = rebuild_index(
            session.bootstrap,
            now=time.time(),
            settings=site,
            dry_run=dry_run,
            progress=progress,
            force=force,
        )
    _tell(session, found)


@app.command()
def reconcile(
    context: typer.Context, dry_run: DryRun = False, force: Force = False, as_json: Json = False
) -> None:
    """Make index and tiers agree, as after a restore; then deletions go on. Node down.

    What the tiers hold is registered; what no tier holds any more is listed as lost.
    """
    session = session_of(context, as_json)
    with _counting(session) as progress:
        found = reconcile_index(
            session.bootstrap, now=time.time(), dry_run=dry_run, progress=progress, force=force
        )
    _tell(session, found)


@app.command()
def sweep(
    context: typer.Context,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """List the objects that nothing in the index knows; delete those on web tiers. Node down.

    Objects on image tiers are never deleted: `raypacs index reconcile` registers them. With
    --dry-run nothing is deleted and the node may run; what it receives just now is listed too.
    """
    session = session_of(context, as_json)
    bootstrap = session.bootstrap
    if not dry_run and not yes:
        count = len(sweep_index(bootstrap, now=time.time()).orphans)
        if count and not agreed(
            session, f"{count:,} objects are unknown. Delete those on web tiers?"
        ):
            raise typer.Exit(Exit.FAILED)
    with session.stderr.status("sweeping ..."):
        swept = sweep_index(bootstrap, now=time.time(), dry_run=dry_run, force=force)
    table = columns(
        f"{len(swept.orphans):,} unknown objects, {swept.deleted:,} deleted", "tier", "path", "why"
    )
    for one in swept.orphans:
        table.add_row(escape(one.tier), escape(one.path), escape(one.why))
    session.emit(asdict(swept), table)


@contextmanager
def _counting(session: Session) -> Iterator[Callable[[int, int], None]]:
    """Show how many studies are done."""
    with session.stderr.status("reading the tiers ...") as shown:
        yield lambda done, total: shown.update(f"{done:,} of {total:,} studies")


def _tell(session: Session, found: Reinventory) -> None:
    """Print what was found; partly done where something could not be placed or is lost."""
    verb = "would be " if found.dry_run else ""
    table = columns(
        f"{found.studies:,} studies in {found.seconds:.1f} s", "", "objects", numbers=_NUMBERS
    )
    for name, count in found.counts.as_dict().items():
        table.add_row(verb + name.replace("_", " "), f"{count:,}")
    table.add_row("could not be placed", f"{len(found.unplaced):,}")
    table.add_row("lost: known, on no tier", f"{len(found.lost):,}")
    session.emit(asdict(found), table)
    for title, rows in (("not placed", found.unplaced), ("lost", found.lost)):
        for one in rows:
            where = escape(f"{one.tier}: {one.path}")
            session.people.print(f"{title}: {where}: {escape(one.why)}", highlight=False)
    if found.unplaced or found.lost:
        raise typer.Exit(Exit.PARTLY)
