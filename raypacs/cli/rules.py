"""Commands `rules`: compression rules tried on files and on stored studies; nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from raypacs import dicom
from raypacs.cli.session import Exit, Json, columns, session_of
from raypacs.cli.settings import read_settings
from raypacs.errors import ConfigError, MalformedInstance, NotFound
from raypacs.records import InstanceRecord

_DESCRIBED = (
    *("sop_class_uid", "transfer_syntax_uid", "study_uid", "series_uid", "sop_instance_uid"),
    *("modality", "source", "size_bytes", "rows", "columns", "frames", "samples"),
    *("bits_allocated", "bits_stored", "high_bit", "photometric", "pixel_length_bytes"),
)

app = typer.Typer(
    help="Try the compression rules: which one decides, and what would happen.",
    no_args_is_help=True,
)


@app.command(name="test")
def try_out(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="DICOM files, and folders with all below.")
    ] = None,
    study: Annotated[
        str, typer.Option(help="Try them on a stored study (UID) instead of on files.")
    ] = "",
    source: Annotated[str, typer.Option(help="Who would send the files: a calling AE title.")] = "",
    settings: Annotated[
        Path | None, typer.Option(help="Try the rules of this settings file, not those in force.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which rule matches each file, and what would happen. Nothing is sent or changed."""
    session = session_of(context, as_json)
    if bool(paths) == bool(study):
        raise ConfigError("name files, or a stored study with --study")
    rules = None
    if settings is not None:
        found = read_settings(settings)[1].compression
        rules = [rule.model_dump(mode="json") for rule in found]
    described, unreadable = _described(paths or [], source)
    with session.client() as client:
        if study and rules is None:
            told = client.study_rules(study)
        elif study:
            raise ConfigError("--settings goes with files; a study is tried with those in force")
        else:
            told = client.explain_rules([record for _, record in described], rules)
    names = [name for name, _ in described] or [one["sop_instance_uid"] for one in told]
    rows = [{"name": name, **one} for name, one in zip(names, told, strict=True)]
    session.emit(
        {"instances": rows, "unreadable": [{"name": n, "why": w} for n, w in unreadable]},
        _table(rows, unreadable),
    )
    if unreadable:
        raise typer.Exit(Exit.PARTLY)


def _described(
    paths: list[Path], source: str
) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[str, str]]]:
    """Return (name, what rules look at) of every DICOM file, and (name, why) of what is none."""
    found: list[tuple[str, dict[str, Any]]] = []
    unreadable: list[tuple[str, str]] = []
    for path in _files(paths):
        try:
            record = _read(path, source)
        except (MalformedInstance, OSError) as exc:
            unreadable.append((str(path), str(exc)))
            continue
        found.append((str(path), {name: getattr(record, name) for name in _DESCRIBED}))
    return found, unreadable


def _files(paths: list[Path]) -> Iterator[Path]:
    """Yield files, and what lies in folders. Raises NotFound."""
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.is_file())
        elif path.is_file():
            yield path
        else:
            raise NotFound(f"no such file or folder: {path}")


def _read(path: Path, source: str) -> InstanceRecord:
    data = path.read_bytes()
    part10 = dicom.split_part10(data)
    return dicom.describe(
        data,
        transfer_syntax_uid=part10.transfer_syntax_uid,
        dataset_offset=part10.dataset_offset,
        tier="",
        path="",
        size_bytes=len(data),
        sha256="",
        source=source,
        received_at_s=0.0,
    )


def _table(rows: list[dict[str, Any]], unreadable: list[tuple[str, str]]) -> Table:
    by_rule = Counter(str(row["rule"]) or "no rule" for row in rows)
    title = ", ".join(f"{count} by {name}" for name, count in by_rule.most_common())
    table = columns(title or "nothing to try", "instance", "rule", "action", "what happens")
    for row in rows:
        table.add_row(
            *(escape(one) for one in (row["name"], row["rule"], row["action"])), _happens(row)
        )
    for name, why in unreadable:
        table.add_row(escape(name), "", "", f"cannot be read: {escape(why)}")
    return table


def _happens(row: dict[str, Any]) -> str:
    """Say what would happen, in words."""
    reason = f" ({row['reason']})" if row["reason"] and row["form"] == "copied" else ""
    told = "copied as received" if row["form"] == "copied" else f"prepared as {row['form']}"
    told += reason
    if row["action"] != "lossy":
        return escape(told)
    if not row["derives"]:
        return escape(f"{told}; no lossy object: {row['why_not']}")
    asked = [
        text
        for text in (
            f"{row['ratio']:g}:1" if row.get("ratio") else "",
            f"{row['psnr_db']:g} dB" if row.get("psnr_db") else "",
        )
        if text
    ]
    return escape(f"{told}, and a lossy object beside it ({', '.join(asked)})")
