"""Fill the results table of README.md from JSON of the benchmarks: results_table.py FILE..."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def number(value: float | None) -> str:
    """Three significant digits, thousands with commas, '-' for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def row(figure: dict[str, Any]) -> str:
    """Return one line of the table."""
    target = figure["target"] or "-"
    if figure["target"]:
        target += " (holds)" if figure["holds"] else " (**missed**)"
    cells = [
        figure["name"],
        f"{number(figure['value'])} {figure['unit']}",
        figure["beside"] or "-",
        number(figure["beside_value"]),
        number(figure["ratio"]),
        target,
        f"{figure['n']}, {figure['spread']:.0%}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(files: list[str]) -> None:
    """Replace what stands between the markers."""
    figures = [figure for name in files for figure in json.loads(Path(name).read_text())]
    table = "\n".join(
        [
            "| figure | raypacs | beside | its value | ratio | target | n, spread |",
            "|---|---|---|---|---|---|---|",
            *map(row, figures),
        ]
    )
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    README.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
