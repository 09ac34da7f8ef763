"""cluster.yaml: valid for the installed Ray, by its schema and by its own checks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import ROOT
from ray.autoscaler._private.util import prepare_config, validate_config


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return loaded


def test_it_is_valid_against_rays_schema(config: dict[str, Any]) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"head_ip": "192.0.2.10"}, schema)


def test_ray_accepts_it_as_the_launcher_would(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == 2


def test_it_uses_a_token_and_keeps_the_dashboard_on_loopback(config: dict[str, Any]) -> None:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in commands)
    assert not any("ray stop" in command for command in commands)
    assert "--dashboard-host=127.0.0.1" in commands[0]
