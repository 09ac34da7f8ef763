"""A real S3 server over HTTP for tests and benchmarks: moto, in a process of its own.

Started on loopback and a free port, stopped by its handle; it ends with its parent, too. What it
stores lies in its memory. Run as a program it serves until its standard input ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import botocore.session
import pytest
from botocore.config import Config

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "only-for-tests"}
_BUCKETS = itertools.count(1)


class S3Server:
    """One server; ``endpoint`` is its URL."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | KEYS,
            text=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        assert port, "the S3 server did not start"
        self.endpoint = f"http://127.0.0.1:{port}"

    def client(self) -> Any:
        """A plain botocore client, for buckets and for looking behind the tier's back."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def bucket(self) -> str:
        """Make an empty bucket; return its name."""
        name = f"bucket-{next(_BUCKETS)}"
        self.client().create_bucket(Bucket=name)
        return name

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def missing() -> str:
    """Why no server can be started here; '' where one can."""
    lacking = [name for name in ("moto", "flask", "flask_cors") if find_spec(name) is None]
    return f"{', '.join(lacking)} not installed (pip install 'raypacs[test]')" if lacking else ""


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Serve."""
    server = S3Server()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A server for the session, its keys in the environment as a node's would be.

    Skips where moto is missing; in CI that is a failure.
    """
    reason = missing()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, s3_server() as server:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server


def _serve() -> None:
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415 - for the server's process only
        DomainDispatcherApplication,
        create_backend_app,
    )
    from werkzeug.serving import make_server  # noqa: PLC0415

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, _as_s3_does(application), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    os._exit(0)


def _as_s3_does(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Two things that moto does otherwise than S3.

    Conditional writes of several threads go one after the other. And a listing of uploads says when
    they began (moto: all in 2010): as the server started.
    """
    turn = threading.Lock()
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()

    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if "HTTP_IF_NONE_MATCH" in environ:
            with turn:
                return list(application(environ, start))
        answer = application(environ, start)
        if environ["QUERY_STRING"].startswith("uploads"):
            return [part.replace(b"2010-11-10T20:48:33.000Z", began) for part in answer]
        return answer

    return serve


if __name__ == "__main__":
    _serve()
