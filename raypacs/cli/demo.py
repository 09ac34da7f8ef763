"""Command `demo`: a node of its own, real DICOM in by two doors, everything prepared, a table.

The node is a child process tied to this one: it stops when the demo stops, however that ends.
Everything lies below the data folder, so starting again finds it as it was.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydicom.data import data_manager
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raypacs import node_file
from raypacs.cli import cstore, node_process
from raypacs.cli.ingest import summary_table, upload_progress
from raypacs.cli.session import Exit, Json, Session, amount, columns, session_of
from raypacs.cli.studies import counted, prepare_progress
from raypacs.client import Client
from raypacs.config import Bootstrap, load_bootstrap
from raypacs.errors import NodeNotRunning, NotFound
from raypacs.node_file import NodeFile
from raypacs.sender import upload as uploading
from raypacs.sender import waiting
from raypacs.sender.upload import Summary
from raypacs.synthetic import generate_ct_series

DATA_DIR = Path("raypacs-data/demo")
SAMPLES = Path(data_manager.DATA_ROOT) / "test_files"
"""The samples that come inside the pydicom wheel; nothing is downloaded."""

SLICES = 100
CALLING_AE = "DEMO_MODALITY"
_BY_C_STORE = 40
_ROWS = 60
_INTERRUPTED = 130
_PREPARE_TIMEOUT_S = 1800.0


def demo(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Ingest this folder, file, zip or DICOMDIR as well.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when everything is prepared.")] = False,
    slices: Annotated[int, typer.Option(min=1, help="Slices of the generated CT.")] = SLICES,
    as_json: Json = False,
) -> None:
    """Show the whole way: start a node, ingest real DICOM, prepare it, serve it."""
    session = session_of(context, as_json)
    if data is not None and not data.exists():
        raise NotFound(f"no such file or folder: {data}")
    bootstrap = _bootstrap(session)
    with _interruptible() as interrupted, _node(session, bootstrap) as node:
        started = time.monotonic()
        with Client(node.http_url, connections=2 * uploading.UPLOADS) as client:
            paths = _inputs(session.stderr, bootstrap, data, slices)
            statuses, summary = _ingest(session.stderr, client, node, paths)
            session.people.print(summary_table(summary))
            with prepare_progress(session.stderr) as shown:
                state = waiting.until_prepared(client, timeout_s=_PREPARE_TIMEOUT_S, shown=shown)
            rows = [describe(client.study(uid)["study"]) for uid in _study_uids(client)]
        told = {
            "studies": rows,
            "ingest": summary.as_json(),
            "c_store": dict(statuses),
            "prepare": state.as_json(),
            "seconds": round(time.monotonic() - started, 1),
            "node": node.details,
            "urls": urls(node.details),
        }
        session.emit(told, table(rows))
        for reason in state.reasons:
            session.people.print(f"[red]failed:[/] {escape(reason)}", highlight=False)
        _show_urls(session.people, node.details, once=once)
        if not once:
            _until_interrupted(interrupted, node)
    session.people.print(f"stopped; everything stays in {bootstrap.data_dir}")
    if state.failed:
        raise typer.Exit(Exit.FAILED)


def _bootstrap(session: Session) -> Bootstrap:
    """The bootstrap of the demo: its own data folder, and free ports where the usual are taken."""
    # Left to Ray, the dashboard's port is the usual one or the next that is free.
    chosen: dict[str, Any] = {"data_dir": session.data_dir or DATA_DIR, "dashboard_port": 0}
    bootstrap = load_bootstrap(session.config_path, chosen)
    for name in ("dicom_port", "http_port"):
        if not _is_free(bootstrap.host, getattr(bootstrap, name)):
            chosen[name] = 0
    return load_bootstrap(session.config_path, chosen)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn SIGTERM and Ctrl-C into an orderly end: once, also while something is going on."""
    interrupted = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _until_interrupted(interrupted: threading.Event, node: NodeFile) -> None:
    try:
        while not interrupted.wait(1.0):
            if not node.is_running():
                raise NodeNotRunning("the node ended by itself", hint="its logs say why")
    except KeyboardInterrupt:
        return


@contextmanager
def _node(session: Session, bootstrap: Bootstrap) -> Iterator[NodeFile]:
    """The node of the demo: the one that runs on the data folder, else one of its own."""
    running = node_file.find(bootstrap)
    if running is not None and running.ready:
        session.people.print(f"using the node that runs already (pid {running.pid}); it stays up")
        yield running
        return
    process: subprocess.Popen[bytes] | None = None
    try:
        with session.stderr.status("starting Ray and the services ..."):
            node, process = node_process.start(bootstrap, tied=True)
        yield node
    finally:
        if process is not None:
            with session.stderr.status("stopping ..."):
                node_process.stop(node)
                process.wait()


def _inputs(console: Console, bootstrap: Bootstrap, data: Path | None, slices: int) -> list[Path]:
    """What the demo ingests; the CT series is made once and kept, so that its bytes stay."""
    ct = bootstrap.data_dir / "generated" / f"ct-{slices}"
    if not ct.is_dir():
        with console.status(f"generating a CT series of {slices} slices ..."):
            partial = ct.with_name(ct.name + ".part")
            generate_ct_series(partial, slices=slices)
            partial.rename(ct)
    return [SAMPLES, ct, *([data] if data is not None else [])]


def _ingest(
    console: Console, client: Client, node: NodeFile, paths: list[Path]
) -> tuple[Counter[str], Summary]:
    samples = sorted(path for path in SAMPLES.rglob("*") if path.is_file())
    # Named alone a DICOMDIR stands for its files, which are sent anyway.
    samples = [path for path in samples if path.name != "DICOMDIR"]
    some = [path for path in samples if cstore.sendable(path)][:_BY_C_STORE]
    with counted(console, "C-STORE", len(some)) as advance:
        statuses = cstore.send(
            some,
            address=(str(node.details.get("host", "127.0.0.1")), int(node.details["dicom_port"])),
            called=str(node.details.get("ae_title", "RAYPACS")),
            calling=CALLING_AE,
            sent=lambda _: advance(),
        )
    by_http = [path for path in samples if path not in set(some)]
    with upload_progress(console) as progress:
        summary = uploading.upload(client, [*by_http, *paths[1:]], source="DEMO", progress=progress)
    return statuses, summary


def _study_uids(client: Client) -> list[str]:
    return [str(row["StudyInstanceUID"]) for row in client.studies()]


def describe(row: dict[str, Any]) -> dict[str, Any]:
    """Return one line of the demo's table from a study row of the REST API.

    ``ratio`` is raw pixel bytes to prepared bytes, ``mb_per_s`` raw pixel megabytes (10^6) per
    second of preparing; both None where nothing was transcoded.
    """
    raw, prepared = int(row.get("raw_bytes") or 0), int(row.get("prepared_bytes") or 0)
    seconds = float(row.get("prepare_seconds") or 0)
    transcoded, proven = int(row.get("transcoded_count") or 0), int(row.get("proven_count") or 0)
    return {
        "study_uid": row.get("study_uid", ""),
        "patient": (row.get("attributes") or {}).get("PatientName", ""),
        "modality": ",".join(row.get("modalities") or ()),
        "objects": int(row.get("instance_count") or 0),
        "bytes_in": int(row.get("size_bytes") or 0),
        "bytes_prepared": prepared,
        "ratio": round(raw / prepared, 2) if transcoded and prepared else None,
        "mb_per_s": round(raw / 1e6 / seconds, 1) if transcoded and seconds else None,
        "transcoded": transcoded,
        "lossless_proven": proven,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the demo's table, largest studies first, with a line for all."""
    numbers = frozenset({"objects", "bytes in", "prepared", "ratio", "MB/s", "lossless_proven"})
    shown = columns(
        f"{len(rows)} studies", "study", "patient", "modality", "objects", "bytes in", "prepared",
        "ratio", "MB/s", "lossless_proven", numbers=numbers,
    )  # fmt: skip
    largest = sorted(rows, key=lambda row: -row["bytes_in"])
    for row in largest[:_ROWS]:
        shown.add_row(
            row["study_uid"],
            escape(str(row["patient"])),
            row["modality"],
            str(row["objects"]),
            amount(row["bytes_in"]),
            amount(row["bytes_prepared"]),
            "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
            "-" if row["mb_per_s"] is None else f"{row['mb_per_s']:.1f}",
            f"{row['lossless_proven']}/{row['transcoded']}" if row["transcoded"] else "copied",
        )
    shown.add_section()
    shown.add_row(
        "all" if len(rows) <= _ROWS else f"all, and {len(rows) - _ROWS} not shown",
        "",
        "",
        str(sum(row["objects"] for row in rows)),
        amount(sum(row["bytes_in"] for row in rows)),
        amount(sum(row["bytes_prepared"] for row in rows)),
        "",
        "",
        f"{sum(row['lossless_proven'] for row in rows)}/{sum(row['transcoded'] for row in rows)}",
    )
    return shown


def urls(details: dict[str, Any]) -> dict[str, str]:
    """Return what to open, by name."""
    base = str(details.get("http_url", ""))
    found = {
        "studies": f"{base}/api/v1/studies",
        "status": f"{base}/api/v1/status",
        "dicom_web": f"{base}/dicom-web/studies",
        "dashboard": str(details.get("dashboard_url", "")),
        "dicom": f"{details.get('ae_title')}@{details.get('host')}:{details.get('dicom_port')}",
    }
    return {name: url for name, url in found.items() if url}


def _show_urls(console: Console, details: dict[str, Any], *, once: bool) -> None:
    for name, url in urls(details).items():
        console.print(f"  {name:10} {url}", highlight=False)
    if not once:
        console.print("Ctrl-C stops it.")
