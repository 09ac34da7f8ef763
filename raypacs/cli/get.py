"""Command `get`: a study out of raypacs, as a standard DICOM folder or a zip file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from raypacs.cli.session import Exit, Json, Session, amount, session_of
from raypacs.cli.studies import StudyArgument, counted
from raypacs.errors import AlreadyExists, ConfigError
from raypacs.sender import media
from raypacs.sender.fetch import DOWNLOADS, fetch_study, objects_of, zip_folder


def get(
    context: typer.Context,
    study: StudyArgument,
    directory: Annotated[
        Path | None, typer.Argument(help="Folder to write to.", show_default=False)
    ] = None,
    dicomdir: Annotated[
        bool,
        typer.Option(
            help="With a DICOMDIR and its file names; else DIRECTORY/SERIES/INSTANCE.dcm."
        ),
    ] = True,
    zip_file: Annotated[
        Path | None, typer.Option("--zip", help="Write this zip file instead of a folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a study as DICOM files as received, checked: a folder with a DICOMDIR, or a zip."""
    session = session_of(context, as_json)
    if (directory is None) == (zip_file is None):
        raise ConfigError("say where to: a folder, or --zip FILE")
    if zip_file is not None and zip_file.exists():
        raise AlreadyExists(f"{zip_file} exists already", hint="name another file")
    if directory is not None and dicomdir:
        media.check_free(directory)
    target = directory if directory is not None else (zip_file or Path()).absolute().parent
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".get-") as scratch:
        loose = directory if directory is not None and not dicomdir else Path(scratch) / "files"
        told = _fetched(session, study, loose)
        medium = None
        if dicomdir:
            root = directory if directory is not None else Path(scratch) / "medium"
            root.mkdir(parents=True, exist_ok=True)
            medium = media.write_medium(sorted(loose.rglob("*.dcm")), root)
            loose = root
        if zip_file is not None:
            zip_folder(loose, zip_file)
    told |= {"directory": str(directory or ""), "zip": str(zip_file or "")}
    if medium is not None:
        told |= {"left_out": medium.left_out, "invented": dict(medium.invented)}
        told |= {"replaced": dict(medium.replaced)}
    _tell(session, told, str(directory or zip_file))


def _fetched(session: Session, study: str, folder: Path) -> dict[str, Any]:
    with session.client(connections=DOWNLOADS) as client:
        told = client.study(study)
        with counted(session.stderr, "get", len(objects_of(told))) as advance:
            found = fetch_study(client, told, study, folder, advance)
    return {
        "study_uid": study,
        "objects": len(found),
        "bytes": sum(one.size_bytes for one in found),
        "decoded": sum(one.decoded for one in found),
    }


def _tell(session: Session, told: dict[str, Any], where: str) -> None:
    session.emit(told, f"{told['objects']} objects, {amount(told['bytes'])} in {escape(where)}")
    if told["decoded"]:
        session.stderr.print(
            f"{told['decoded']} left the image cache: decoded from the web cache, "
            "Explicit VR Little Endian",
            highlight=False,
        )
    for keyword, count in told.get("invented", {}).items():
        session.stderr.print(
            f"{count} without {keyword}: the DICOMDIR has a made up one, the files have not",
            highlight=False,
        )
    for keyword, count in told.get("replaced", {}).items():
        session.stderr.print(
            f"{count} whose {keyword} is not valid: the DICOMDIR has a valid one, not the files",
            highlight=False,
        )
    for path, why in told.get("left_out", {}).items():
        session.stderr.print(f"not in the DICOMDIR: {escape(path)}: {escape(why)}", highlight=False)
    if told.get("left_out"):
        raise typer.Exit(Exit.PARTLY)
