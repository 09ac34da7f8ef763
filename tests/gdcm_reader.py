"""GDCM in a process of its own: some files end the process that reads them (an exception of C++).

    with Gdcm() as gdcm:
        pixels = gdcm.frames(path)      # None: it cannot

Run as a program it reads a path and a path for the result from each line of its input, and
answers each with a line: what it found.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Gdcm:
    """A reader that is started again after a file that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory()
        self.ended_by: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._folder.cleanup()

    def frames(self, path: Path) -> Array | None:
        """Return all frames of a file (frames x rows x columns [x samples]); None if it cannot."""
        answer, made = self._ask("frames", path)
        return np.load(made) if answer == "read" else None

    def opens(self, path: Path) -> bool:
        """Whether it reads the file's data set, pixels or not."""
        return self._ask("opens", path)[0] == "read"

    def _ask(self, what: str, path: Path) -> tuple[str, Path]:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        made = Path(self._folder.name, "frames.npy")
        process.stdin.write(f"{what}\t{path}\t{made}\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        if not answer:
            self.ended_by.append(path)
            self._end()
        return answer, made

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


def _frames(gdcm: Any, path: str) -> Array | None:
    reader = gdcm.ImageReader()
    reader.SetFileName(path)
    if not reader.Read():
        return None
    image = reader.GetImage()
    kind = image.GetPixelFormat()
    buffer = image.GetBuffer()
    if isinstance(buffer, str):
        buffer = buffer.encode("utf-8", "surrogateescape")
    size = {8: "1", 16: "2", 32: "4"}.get(kind.GetBitsAllocated())
    if buffer is None or size is None:
        return None
    pixels = np.frombuffer(buffer, ("i" if kind.GetPixelRepresentation() else "u") + size)
    columns, rows = image.GetDimension(0), image.GetDimension(1)
    samples = kind.GetSamplesPerPixel()
    if samples == 1:
        return pixels.reshape(-1, rows, columns)
    if image.GetPlanarConfiguration() == 1:
        return pixels.reshape(-1, samples, rows, columns).transpose(0, 2, 3, 1)
    return pixels.reshape(-1, rows, columns, samples)


def _opens(gdcm: Any, path: str) -> bool:
    reader = gdcm.Reader()
    reader.SetFileName(path)
    return bool(reader.Read())


def main() -> None:
    """Answer line by line until the input ends."""
    import gdcm  # noqa: PLC0415 - only in this process

    for line in sys.stdin:
        what, path, made = line.rstrip("\n").split("\t")
        if what == "opens":
            found = _opens(gdcm, path)
        else:
            pixels = _frames(gdcm, path)
            found = pixels is not None
            if pixels is not None:
                out = io.BytesIO()
                np.save(out, pixels)
                Path(made).write_bytes(out.getvalue())
        print("read" if found else "not read", flush=True)


if __name__ == "__main__":
    main()
