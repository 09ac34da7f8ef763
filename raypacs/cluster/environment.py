"""The environment a process needs before it imports Ray, which reads it at import.

Nothing here imports Ray. Token mode is set everywhere, with a token file of our own: Ray's default
writes one that everybody on the machine can read (RAY.md 11).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from raypacs.config import Bootstrap


def token_path(bootstrap: Bootstrap) -> Path:
    """Return the path of this site's Ray token; made at first use, readable by its owner only."""
    path = bootstrap.data_dir.absolute() / "ray-token"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(descriptor, "w", encoding="ascii") as handle:
        handle.write(secrets.token_hex(32))
    return path


def ray_environment(bootstrap: Bootstrap) -> dict[str, str]:
    """Return the variables for a process that will import Ray."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(bootstrap)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
