"""Finds dcmtk's programs; pynetdicom puts scripts of the same names into an environment."""

from __future__ import annotations

import os
from pathlib import Path


def find(name: str) -> str | None:
    """Return the path of a compiled program ``name`` on PATH; scripts do not count."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = Path(folder) / name
        try:
            with path.open("rb") as program:
                if program.read(4) == b"\x7fELF" and os.access(path, os.X_OK):
                    return str(path)
        except OSError:
            continue
    return None
