"""The kinds of work (FEATURES C6): what each takes of a node, and what it needs there."""

from __future__ import annotations

from dataclasses import dataclass

from raypacs.errors import InvalidQuery

IMAGE, WEB, LIBRARY = "image", "web", "library"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of work.

    ``per_core``: it keeps cores busy, so a node runs as many as it has cores; all other kinds
    share the node's slots. ``heavy``: it holds much memory. ``tiers``: roles of the tiers that a
    node must reach to do it.
    """

    name: str
    tiers: tuple[str, ...]
    per_core: bool = False
    heavy: bool = False


PREPARE = "PREPARE"
DERIVE = "DERIVE"
RESTORE = "RESTORE"
PREFETCH = "PREFETCH"
ADOPT = "ADOPT"
MIGRATE = "MIGRATE"

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("PROCESS", (IMAGE,)),
        Kind(PREPARE, (IMAGE, WEB), per_core=True),
        Kind(DERIVE, (IMAGE,)),
        Kind("ARCHIVE", (IMAGE, LIBRARY), heavy=True),
        Kind(MIGRATE, (IMAGE,)),
        # Not heavy: it streams, and a viewer must not wait for what is archived meanwhile.
        Kind(RESTORE, (IMAGE, LIBRARY)),
        Kind(PREFETCH, (IMAGE, LIBRARY)),
        Kind("PURGE", ()),
        Kind("EDIT", (IMAGE, WEB), heavy=True),
        Kind("EXPORT", (IMAGE,)),
        Kind("RETRIEVE", (IMAGE,)),
        Kind("DIFF", ()),
        Kind("VERIFY", (IMAGE, WEB)),
        Kind("COMPACT", (WEB,), heavy=True),
        Kind("REINDEX", (IMAGE,)),
        Kind(ADOPT, (IMAGE, WEB)),
    )
}


def kind_of(name: str) -> Kind:
    """Return a kind by its name.

    Raises:
        InvalidQuery: there is no such kind; names those there are.
    """
    try:
        return KINDS[name]
    except KeyError:
        known = ", ".join(sorted(KINDS))
        raise InvalidQuery(f"kind: no kind of work {name!r}; known: {known}", kind=name) from None
