"""The environment a process needs before it imports Ray, which reads it at import.

Nothing here imports Ray. Token mode is set everywhere, with a token file of our own: Ray's default
writes one that everybody on the machine can read (RAY.md 11).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from raypacs.config import Bootstrap
from raypacs.errors import ConfigError

#: Where Ray's workers on this node find the node's own bootstrap (``bootstrap_path``).
BOOTSTRAP_PATH_VARIABLE = "RAYPACS_BOOTSTRAP_PATH"

# A cut link or a frozen host is noticed after 9 s instead of 65 s (RAY.md 12).
_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
# How long the others wait for a head that restarts, in seconds.
_HEAD_AWAY_S = "600"


def token_path(bootstrap: Bootstrap) -> Path:
    """Return the path of this site's Ray token; made at first use, readable by its owner only.

    Raises:
        ConfigError: the node joins others (or names a token), and the token is not there.
    """
    path = (bootstrap.ray_token_path or bootstrap.data_dir / "ray-token").absolute()
    if bootstrap.ray_token_path or bootstrap.ray_address:
        if not path.is_file():
            raise ConfigError(
                f"the cluster's token {path} is not there",
                hint="copy the head's `ray-token`, readable by you only, and set ray_token_path",
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(descriptor, "w", encoding="ascii") as handle:
        handle.write(secrets.token_hex(32))
    return path


def bootstrap_path(bootstrap: Bootstrap) -> Path:
    """Return where a running node keeps its bootstrap for the actors that Ray starts on it."""
    return bootstrap.run_dir / "bootstrap.json"


def ray_environment(bootstrap: Bootstrap) -> dict[str, str]:
    """Return the variables for a process that will import Ray."""
    found = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(bootstrap)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        BOOTSTRAP_PATH_VARIABLE: str(bootstrap_path(bootstrap)),
    }
    if bootstrap.clustered:
        found |= _HEALTH_CHECKS
        found["RAY_gcs_rpc_server_reconnect_timeout_s"] = _HEAD_AWAY_S
    if bootstrap.ray_port:
        found["RAY_GCS_SERVER_PORT"] = str(bootstrap.ray_port)
    if bootstrap.ray_redis:
        found["RAY_REDIS_ADDRESS"] = bootstrap.ray_redis
        found["RAY_external_storage_namespace"] = f"raypacs-{bootstrap.hash()}"
    return found
