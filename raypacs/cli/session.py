"""What every command shares: the bootstrap, the node to talk to, and the two ways to print.

With ``--json`` exactly one JSON value goes to standard output and nothing else; everything meant
for people (tables, progress) goes to standard error then. Exit codes are in docs/cli.md.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.prompt import Confirm
from rich.table import Table

from raypacs.client import Client, find_url
from raypacs.config import Bootstrap, load_bootstrap
from raypacs.errors import ConfigError

DEFAULT_CONFIG = Path("raypacs.toml")

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


class Exit(IntEnum):
    """Exit codes of every command (docs/cli.md)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    NOT_FOUND = 4
    PARTLY = 5


@dataclass
class Session:
    """One invocation of the command line."""

    config: Path | None = None
    data_dir: Path | None = None
    url: str = ""
    json: bool = False
    debug: bool = False
    stdout: Console = field(default_factory=lambda: Console(width=_width()))
    stderr: Console = field(default_factory=lambda: Console(stderr=True))

    @property
    def config_path(self) -> Path | None:
        """The bootstrap file in use: the named one, else raypacs.toml here if there is one."""
        if self.config is None and DEFAULT_CONFIG.is_file():
            return DEFAULT_CONFIG
        return self.config

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """The bootstrap of the node on this data folder.

        Raises:
            ConfigError: as :func:`raypacs.config.load_bootstrap`.
        """
        return load_bootstrap(self.config_path, {"data_dir": self.data_dir})

    @property
    def people(self) -> Console:
        """Where text for people goes."""
        return self.stderr if self.json else self.stdout

    def client(self, **options: Any) -> Client:
        """Return a client of the node.

        Raises:
            NodeNotRunning: there is none.
        """
        url = self.url or find_url(self.bootstrap)
        return Client(url, source=_who(), **options)

    def emit(self, value: Any, table: Table | str | None = None) -> None:
        """Print ``value`` as JSON, or ``table`` for people."""
        if self.json:
            sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()
        elif table is not None:
            self.stdout.print(table)


def session_of(context: typer.Context, as_json: bool = False) -> Session:
    """Return the invocation's session; ``as_json`` is the command's own --json."""
    session = context.find_object(Session)
    if session is None:
        raise RuntimeError("the command line was entered without its main command")
    session.json = session.json or as_json
    return session


def agreed(session: Session, question: str) -> bool:
    """Ask on standard error; no is the default.

    Raises:
        ConfigError: there is nobody to ask: no terminal, or one that was closed.
    """
    nobody = ConfigError(f"nobody there to ask: {question}", hint="--yes does it without asking")
    # A script's standard input may stay open for ever, or hold what is meant for somebody else.
    if not sys.stdin.isatty():
        raise nobody
    try:
        return Confirm.ask(question, console=session.stderr, default=False)
    except EOFError:
        raise nobody from None


def _who() -> str:
    """Return who asks, for the audit: `CLI user@host`, as far as it is printable ASCII."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        user = str(os.getuid())
    told = f"CLI {user}@{socket.gethostname()}"
    return "".join(one for one in told if one.isascii() and one.isprintable())[:64]


def _width() -> int | None:
    # Into a pipe or a file, tables are not cut to the 80 columns of a terminal that is not there.
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200


def columns(title: str, *names: str, numbers: frozenset[str] = frozenset()) -> Table:
    """Return an empty table; columns in ``numbers`` are right-aligned."""
    table = Table(title=title, title_justify="left", header_style="bold", show_edge=False)
    for name in names:
        justify = "right" if name in numbers else "left"
        # UIDs are copied from the screen: they stay in one piece.
        whole = name in ("study", "series", "item")
        table.add_column(name, justify=justify, overflow="fold", no_wrap=whole)  # type: ignore[arg-type]
    return table


def moment(seconds: Any) -> str:
    """Return a time (seconds since the Unix epoch, UTC) in local time, with its offset."""
    if not isinstance(seconds, int | float) or not seconds:
        return str(seconds)
    try:
        local = datetime.fromtimestamp(seconds, UTC).astimezone()
    except (ValueError, OverflowError):
        return str(seconds)
    return local.isoformat(sep=" ", timespec="seconds")


def amount(size_bytes: float | None) -> str:
    """Return bytes for people, in decimal units as disks are sold."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"
