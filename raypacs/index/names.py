"""Three letters of a name: by them names are found by any part, on both databases alike.

A folded name (``attributes.fold_name``) is cut into its runs of three characters, beginning and
end of each component group marked: ``doe^jo`` is ``<do doe oe^ e^j ^jo jo>``. Whatever matches a
pattern has every run of the pattern's literal parts, so the rarest of those runs leads to the
names; whether they match is still for the pattern itself to say.
"""

from __future__ import annotations

import re

_WIDTH = 3
_BEGIN, _END = "<", ">"


def grams(folded: str) -> set[str]:
    """Return the runs of three characters of a folded name; none for an empty one."""
    return _runs(_marked(folded)) if folded else set()


def grams_of_pattern(folded: str) -> set[str]:
    """Return the runs that every name has which matches a folded pattern (``*`` and ``?``).

    Empty where the pattern's literal parts are too short to say.
    """
    found: set[str] = set()
    for part in re.split(r"[*?]", _marked(folded)):
        found |= _runs(part)
    return found


def _marked(folded: str) -> str:
    # '=' separates component groups: one ends, another begins (PS3.5 section 6.2.1).
    return f"{_BEGIN}{folded.replace('=', _END + _BEGIN)}{_END}"


def _runs(text: str) -> set[str]:
    return {text[start : start + _WIDTH] for start in range(len(text) - _WIDTH + 1)}
