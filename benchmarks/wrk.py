"""Measure requests per second with wrk: many URLs, one Accept header, errors counted."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import peers

# Every thread walks the whole list of paths from its own place; `done` prints one JSON line.
_SCRIPT = """
local paths = {%(paths)s}
local next_thread = 0
function setup(thread) thread:set("offset", next_thread); next_thread = next_thread + 1 end
function init(args) at = offset * 7919 end
function request()
  at = at + 1
  return wrk.format("GET", paths[at %% #paths + 1])
end
function done(summary, latency, requests)
  io.write(string.format(
    'WRK {"requests": %%d, "bytes": %%d, "us": %%d, "p50_us": %%d, "p99_us": %%d, ' ..
    '"status": %%d, "broken": %%d}\\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50),
    latency:percentile(99), summary.errors.status, summary.errors.connect +
    summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests and bytes (with headers) per second, latency in milliseconds."""

    requests_per_s: float
    bytes_per_s: float
    p50_ms: float
    p99_ms: float


def measure(
    urls: Sequence[str], *, accept: str, seconds: int, connections: int = 8, threads: int = 2
) -> Load:
    """Request ``urls`` in turn for ``seconds`` with keep-alive ``connections``.

    All URLs share scheme, host and port. wrk follows no redirect and checks no content: fetch one
    URL beforehand (:func:`fetch`) and look at it.

    Raises:
        MissingPeer: wrk is not installed.
        RuntimeError: wrk failed, or any answer was not 2xx/3xx, or a connection broke: such a
            rate would compare nothing.
    """
    peers.require("wrk")
    parts = [urllib.parse.urlsplit(url) for url in urls]
    if len({part.netloc for part in parts}) != 1:
        raise RuntimeError("wrk takes URLs of one server at a time")
    quoted = ",".join(json.dumps(urllib.parse.urlunsplit(("", "", *p[2:4], ""))) for p in parts)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % {"paths": quoted})
        script.flush()
        command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
        command += ["-H", f"Accept: {accept}", "-s", script.name]
        command += [f"{parts[0].scheme}://{parts[0].netloc}/"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + 120
        )
    found = re.search(r"^WRK (\{.*\})$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stderr or done.stdout}")
    seen = json.loads(found[1])
    if seen["status"] or seen["broken"] or not seen["requests"]:
        raise RuntimeError(
            f"wrk: {seen['status']} answers with an error status, {seen['broken']} broken "
            f"connections, of {seen['requests']} requests to {parts[0].netloc}{parts[0].path}"
        )
    duration_s = seen["us"] / 1e6
    return Load(
        seen["requests"] / duration_s,
        seen["bytes"] / duration_s,
        seen["p50_us"] / 1e3,
        seen["p99_us"] / 1e3,
    )


def fetch(url: str, accept: str) -> tuple[int, str, bytes]:
    """Return status, Content-Type and body of one GET.

    Raises:
        urllib.error.HTTPError: an error status.
    """
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()
