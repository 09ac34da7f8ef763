"""Command `submit`: run an entry script of jobs/ on the cluster through Ray's Jobs API (HTTP)."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

import raypacs
from raypacs import node_file
from raypacs.cli.session import Exit, Json, session_of
from raypacs.client import URL_VARIABLE
from raypacs.errors import NodeNotRunning, NotFound, RaypacsError

_JOBS = Path(raypacs.__file__).parent.parent / "jobs"
_POLL_S = 0.5
_AGENT_S = 60.0
_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


def submit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Script in jobs/ without .py, e.g. prepare.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show its output until it ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a job on the cluster; further arguments go to the job."""
    session = session_of(context, as_json)
    script = find_script(name)
    node = node_file.find(session.bootstrap)
    if node is None or not node.ready:
        raise NodeNotRunning(f"no node runs on {session.bootstrap.data_dir}")
    with JobsApi(node.details) as jobs:
        entrypoint = shlex.join([sys.executable, str(script), *context.args])
        number = jobs.submit(entrypoint, {URL_VARIABLE: session.url or node.http_url})
        if not follow:
            session.emit({"submission_id": number, "entrypoint": entrypoint}, f"submitted {number}")
            return
        for text in jobs.follow(number):
            (sys.stderr if session.json else sys.stdout).write(text)
        told = jobs.info(number)
    session.emit(
        {"submission_id": number, "status": told["status"], "message": told.get("message", "")},
        f"{number} {told['status'].lower()}",
    )
    if told["status"] != "SUCCEEDED":
        raise typer.Exit(Exit.FAILED)


def find_script(name: str) -> Path:
    """Return the path of the job's script.

    Raises:
        NotFound: none of this name; names those there are.
    """
    known = sorted(path.stem for path in _JOBS.glob("[a-z]*.py"))
    if name not in known:
        raise NotFound(f"no job {name!r}", hint=f"there are: {', '.join(known) or 'none'}")
    return _JOBS / f"{name}.py"


class JobsApi:
    """Ray's Jobs API of a node, with the token of its token file."""

    def __init__(
        self, details: dict[str, Any], *, transport: httpx.BaseTransport | None = None
    ) -> None:
        url = details.get("dashboard_url")
        if not url:
            raise NodeNotRunning(
                "the node runs without Ray's dashboard, so there is no Jobs API",
                hint="set dashboard = true in raypacs.toml and start it again",
            )
        headers = {}
        token = details.get("ray_token_path")
        if token:
            text = Path(token).read_text(encoding="ascii").strip()
            headers["Authorization"] = f"Bearer {text}"
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=60.0, transport=transport, trust_env=False
        )

    def __enter__(self) -> JobsApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, entrypoint: str, env: dict[str, str]) -> str:
        """Start ``entrypoint`` on the cluster and return its submission id."""
        body = {"entrypoint": entrypoint, "runtime_env": {"env_vars": env}}
        deadline = time.monotonic() + _AGENT_S
        while True:
            try:
                return str(self._json("POST", "/api/jobs/", json=body)["submission_id"])
            except RaypacsError as exc:
                # Ray's agent on the node comes up some seconds after Ray itself.
                if "No available agent" not in str(exc) or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def info(self, number: str) -> dict[str, Any]:
        """Return status (PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED) and message of a job."""
        told: dict[str, Any] = self._json("GET", f"/api/jobs/{number}")
        return told

    def follow(self, number: str) -> Iterator[str]:
        """Yield what the job prints until it has ended."""
        shown = 0
        while True:
            ended = self.info(number)["status"] in _ENDED
            text = str(self._json("GET", f"/api/jobs/{number}/logs").get("logs") or "")
            if text[shown:]:
                yield text[shown:]
                shown = len(text)
            if ended:
                return
            time.sleep(_POLL_S)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as exc:
            raise NodeNotRunning(f"Ray's Jobs API does not answer: {exc}") from exc
        if response.is_error:
            raise RaypacsError(f"Ray's Jobs API: {response.status_code} {response.text[:500]}")
        return response.json()
