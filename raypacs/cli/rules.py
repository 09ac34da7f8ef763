"""Commands `rules`: all rules tried on files and on stored studies; nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from raypacs import dicom
from raypacs.cli.session import Exit, Json, columns, moment, session_of
from raypacs.cli.settings import read_settings
from raypacs.errors import ConfigError, MalformedInstance, NotFound
from raypacs.records import InstanceRecord

_DESCRIBED = (
    *("sop_class_uid", "transfer_syntax_uid", "study_uid", "series_uid", "sop_instance_uid"),
    *("modality", "source", "size_bytes", "rows", "columns", "frames", "samples"),
    *("bits_allocated", "bits_stored", "high_bit", "photometric", "pixel_length_bytes"),
)

app = typer.Typer(
    help="Try the rules, on arrival and of compression: which decide, and what would happen.",
    no_args_is_help=True,
)


@app.command(name="test")
def try_out(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE|STUDY]...",
            help="DICOM files, and folders with all below; or the UID of a stored study.",
        ),
    ] = None,
    study: Annotated[
        str, typer.Option(help="Try them on a stored study (UID) instead of on files.")
    ] = "",
    source: Annotated[str, typer.Option(help="Who would send the files: a calling AE title.")] = "",
    address: Annotated[str, typer.Option(help="From which address.")] = "",
    settings: Annotated[
        Path | None, typer.Option(help="Try the rules of this settings file, not those in force.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which rules match, why others do not, and what would happen. Nothing is changed."""
    session = session_of(context, as_json)
    if paths and len(paths) == 1 and not study and _is_uid(paths[0]):
        study, paths = str(paths[0]), None
    if bool(paths) == bool(study):
        raise ConfigError("name files, or a stored study with --study")
    if study and settings is not None:
        raise ConfigError("--settings goes with files; a study is tried with those in force")
    given = _given(settings)
    read, unreadable = _described(paths or [], source)
    with session.client() as client:
        if study:
            told = client.study_rules(study)
            studies = {study: client.study_arrival(study)}
        else:
            asked = [{name: getattr(record, name) for name in _DESCRIBED} for _, record in read]
            told = client.explain_rules(asked, given.pop("compression", None))
            studies = {
                uid: client.explain_arrival({**one, **given, "source": source, "address": address})
                for uid, one in _by_study([record for _, record in read]).items()
            }
    names = [name for name, _ in read] or [one["sop_instance_uid"] for one in told]
    rows = [{"name": name, **one} for name, one in zip(names, told, strict=True)]
    session.emit(
        {
            "instances": rows,
            "unreadable": [{"name": n, "why": w} for n, w in unreadable],
            "studies": [{"study_uid": uid, **one} for uid, one in studies.items()],
        },
        _table(rows, unreadable),
    )
    if not session.json:
        for uid, one in studies.items():
            session.stdout.print(_arrival(uid, one))
    if unreadable:
        raise typer.Exit(Exit.PARTLY)


def _is_uid(path: Path) -> bool:
    text = str(path)
    return text.replace(".", "").isdecimal() and "." in text and not path.exists()


def _given(settings: Path | None) -> dict[str, Any]:
    """Return the rules of a settings file by kind; {} where those in force are to be tried."""
    if settings is None:
        return {}
    found = read_settings(settings)[1].model_dump(mode="json")
    return {name: found[name] for name in ("compression", "rules", "sources")}


def _by_study(records: list[InstanceRecord]) -> dict[str, dict[str, Any]]:
    """Return studies as rules on arrival see them, made up of files."""
    found: dict[str, dict[str, Any]] = {}
    series: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        uid = record.study_uid
        study = found.setdefault(uid, {"study": {"StudyInstanceUID": uid}, "size_bytes": 0})
        study["study"] = {**record.attributes, **study["study"]}
        study["size_bytes"] += record.size_bytes
        one = series.setdefault(uid, {}).setdefault(
            record.series_uid,
            {
                **record.attributes,
                "Modality": record.modality,
                "SeriesInstanceUID": record.series_uid,
                "NumberOfSeriesRelatedInstances": 0,
            },
        )
        one["NumberOfSeriesRelatedInstances"] += 1
    for uid, study in found.items():
        every = list(series[uid].values())
        study["series"] = every
        study["study"] |= {
            "ModalitiesInStudy": "\\".join(sorted({one["Modality"] for one in every})),
            "NumberOfStudyRelatedSeries": len(every),
            "NumberOfStudyRelatedInstances": sum(
                one["NumberOfSeriesRelatedInstances"] for one in every
            ),
        }
    return found


def _arrival(study_uid: str, told: dict[str, Any]) -> Table:
    """Return what rules on arrival say of a study, rule by rule."""
    table = columns(f"on arrival of {study_uid}", "rule", "matches", "why not, or what it decides")
    for one in told["rules"]:
        why = "; ".join(one["failed"]) or ", ".join(one["decides"]) or "nothing that is left"
        if not one["asked"]:
            why = "not asked: a rule before it was the last one"
        table.add_row(escape(one["rule"]), "yes" if one["matches"] else "no", escape(why))
    for name, effect in told["decided"].items():
        value = moment(effect["value"]) if name.endswith("_s") else effect["value"]
        table.add_row(escape(effect["by"]), "decides", escape(f"{name}: {value}"))
    for sender in told["senders"]:
        named = f"source {sender['settings']}" if sender["settings"] else "no source of its own"
        who = f"{sender['source'] or '?'} from {sender['address'] or 'an unknown address'}"
        archived = "is archived" if told["archiving"] else "is not archived"
        table.add_row(escape(named), "sends", escape(f"{who}; the study {archived}"))
    return table


def _described(
    paths: list[Path], source: str
) -> tuple[list[tuple[str, InstanceRecord]], list[tuple[str, str]]]:
    """Return (name, record) of every DICOM file, and (name, why) of what is none."""
    found: list[tuple[str, InstanceRecord]] = []
    unreadable: list[tuple[str, str]] = []
    for path in _files(paths):
        try:
            record = _read(path, source)
        except (MalformedInstance, OSError) as exc:
            unreadable.append((str(path), str(exc)))
            continue
        found.append((str(path), record))
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
