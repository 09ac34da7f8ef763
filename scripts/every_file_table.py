"""Write docs/every-file.md, what becomes of each file of ../shared/data/dicom:

    python scripts/every_file_table.py

Takes about a minute. The same is asserted by tests/acceptance/test_every_file.py.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import dcmtk  # noqa: E402 - the tests' modules
from every_file import Arrived, arrived, completed, shared_files  # noqa: E402
from frame_checks import Agreement, agreement  # noqa: E402
from gdcm_reader import Gdcm  # noqa: E402
from independent import Expander  # noqa: E402

DOCUMENT = ROOT / "docs" / "every-file.md"

INTRODUCTION = """\
# Every file

What becomes of each of the {count} files of the folder of real data beside the project. Made by
`python scripts/every_file_table.py`; `tests/acceptance/test_every_file.py` asserts on the same.

{summary}

- **source read by**: programs that find in the file as received the samples that a node gives out
  in Explicit VR Little Endian; `bytes`: Pixel Data is the same byte for byte (received native,
  little endian, colour by pixel).
- **decoded by**: independent decoders that make the same samples of the codestreams. OpenJPEG
  computes in 32 bits and so takes samples of at most 16; the `ojph_expand` of Debian 13 takes 32,
  but colour only up to 16. Floating point (wavelet and residual) and single bits (deflated) have no
  second decoder of the stored form: there source and native form are compared.
- A copied file is kept and served byte for byte as received; a quarantined one is kept aside so.
- **ratio**: decoded pixels beside the bytes in the pack.
- Transfer syntaxes without 1.2.840.10008 before them.
"""

COLUMNS = (
    *("file", "received as", "outcome", "depth", "photometric", "frames", "ratio"),
    *("source read by", "decoded by"),
)
HEAD = f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"

COMPLETED = """
## Given an identity

Pictures above that were quarantined because they have no study or no file meta, with UIDs and a
preamble added: what their frames are taken for.
"""


def main() -> None:
    """Write the document."""
    program = dcmtk.find("ojph_expand")
    if not shared_files() or program is None:
        raise SystemExit("needs ../shared/data/dicom and ojph_expand (Debian's openjph-tools)")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder, Gdcm() as gdcm:
        every = arrived(Path(folder))
        expander = Expander(program)
        identified = completed(Path(folder))
        rows = [
            (one, agreement(one, gdcm, expander, Path(folder)) if one.prepared else None)
            for one in (*every, *identified)
        ]
    for one, found in rows:
        assert found is None or not found.wrong, (one.name, found.wrong)
    lines = [_row(*row) for row in rows]
    text = INTRODUCTION.format(count=len(every), summary=_summary(every, rows))
    text += HEAD + "".join(lines[: len(every)]) + COMPLETED + HEAD + "".join(lines[len(every) :])
    DOCUMENT.write_text(text, encoding="utf-8")


def _summary(every: Sequence[Arrived], rows: Sequence[tuple[Arrived, Agreement | None]]) -> str:
    """Return what the table adds up to."""
    outcomes = Counter(one.outcome for one in every)
    by, frames, codes = Counter[str](), 0, 0
    for one, found in rows:
        if found is None:
            continue
        count = one.pixels.frames
        frames += count
        codes += count if found.of_codes else 0
        by.update(dict.fromkeys((*found.of_source, *found.of_codes), count))
    return (
        f"Files: {_listed(outcomes)}. Prepared frames, with the last section: {frames},\n"
        f"{codes} of them as codestreams. Nobody who reads or decodes one finds another sample.\n"
        f"Frames by who does: {_listed(by)}."
    )


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counted.most_common())


def _row(one: Arrived, found: Agreement | None) -> str:
    received = _syntax(one.record.transfer_syntax_uid) if one.record is not None else ""
    if found is None:
        cells = [one.name, received, f"{one.outcome}: {_plain(one.reason)}", *[""] * 6]
        return f"| {' | '.join(cells)} |\n"
    assert one.instance is not None
    told = one.pixels
    sign = " signed" if told.pixel_representation else ""
    form = f"{one.outcome}, {_syntax(one.instance.transfer_syntax_uid)}"
    cells = [
        one.name,
        received,
        f"prepared: {form}" + (", low resolution of its own" if told.low_own else ""),
        f"{told.bits_stored or told.bits_allocated} of {told.bits_allocated}{sign}",
        told.photometric + (" as YBR_RCT" if told.colour_transform else ""),
        str(told.frames),
        f"{one.instance.raw_bytes / max(1, one.instance.prepared_bytes):.2f}",
        ", ".join(found.of_source),
        ", ".join(found.of_codes),
    ]
    return f"| {' | '.join(cells)} |\n"


def _syntax(uid: str) -> str:
    return uid.removeprefix("1.2.840.10008")


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
