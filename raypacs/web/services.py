"""What the web edge needs from the rest of raypacs: one frozen value of plain callables.

Nothing here knows the index, Ray or a process layout; the composition root fills it in. Every
callable may block and is called from a worker thread unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raypacs.config import Settings
from raypacs.records import InstanceRecord, PackRef, StoredInstance
from raypacs.storage.intake import Intake
from raypacs.storage.tier import Tier

SearchParams = dict[str, list[str]]
"""Query parameters as sent: DICOM keyword or tag, ``limit``, ``offset`` ... to their values."""

Row = dict[str, Any]


def _nothing(question: str, *args: Any, **named: Any) -> Any:
    raise AttributeError(question)


@dataclass(frozen=True)
class Services:
    """Everything the web edge may call.

    ``search_*``: rows of DICOM keyword to text or number (values joined by a backslash), already
    cut to limit and offset. A row of a series carries StudyInstanceUID, one of an instance also
    SeriesInstanceUID.
    """

    search_studies: Callable[[SearchParams], list[Row]]
    search_series: Callable[[SearchParams], list[Row]]
    search_instances: Callable[[SearchParams], list[Row]]
    study: Callable[[str], Row | None]
    """Study UID to its row and state, objects kept aside under ``aside``; None: no such study."""
    instances: Callable[[str], list[StoredInstance]]
    """Study UID to its instances, [] if unknown."""
    series_instances: Callable[[str, str], list[StoredInstance]]
    """Study UID, Series UID to its instances, [] if unknown or of another study."""
    locate_instance: Callable[[str], StoredInstance | None]
    """SOP Instance UID to the instance that is served."""
    locate: Callable[[str], list[PackRef]]
    """Series UID to its published packs, oldest first."""
    series_state: Callable[[str, str], tuple[str, ...]]
    """Study UID, Series UID to what changes with every registration or pack of the series.

    Cheap: asked again every second in use.
    """
    tier: Callable[[str], Tier]
    """Name to tier; raises NotFound."""
    intake: Intake
    status: Callable[[], Row]
    delete_study: Callable[[str, str], Any]
    """Study UID, and who asks; deletes it from every cache; returns the number of objects."""
    hint_complete: Callable[[list[str]], Any]
    """Study UIDs that are complete: prepare without waiting for quiet."""
    settings: Callable[[], tuple[int, Settings]]
    apply_settings: Callable[[dict[str, Any], str, int | None], int]
    """All settings as a plain object, who asks, and the version that must be current (None: any).

    Returns the new version; raises AlreadyExists where another one is current.
    """
    explain_rules: Callable[[Sequence[InstanceRecord], list[Row] | None], list[Row]]
    """Instances, and rules as in the settings (None: those in force), to what they say of each.

    Raises ConfigError where a rule is wrong.
    """
    tasks: Callable[[Mapping[str, str], int, int, int], Row]
    """Filters, limit, offset, before_id to ``items`` (newest first), ``total``, ``total_is_exact``.

    Raises InvalidQuery.
    """
    task: Callable[[int], Row]
    """Number of a work item to its row; raises NotFound."""
    queue_state: Callable[[], Row]
    """``state`` and ``why`` of the whole queue, and of each kind under ``kinds``."""
    nodes: Callable[[], list[Row]]
    """Nodes with what they say of themselves, ``state`` and ``problems``."""
    why: Callable[[str], list[Row]]
    """Study UID to its story in order, also of a deleted one; raises NotFound."""
    master: Callable[..., Any]
    """Name and arguments of an event of the master to its answer; raises what the event raises."""
    touched: Callable[[list[str]], Any]
    """Study UIDs that were accessed; batched, at most once a second and study."""
    is_away: Callable[[str], bool] = lambda study_uid: False
    """Study UID to whether instances of it left the image tiers."""
    restore: Callable[[str], Row] | None = None
    """Study UID of which bytes were not found: see that it is brought back from a library.

    Returns ``item_id``, ``state`` and ``error`` (``Master.order_restore``). None: there are none.
    """
    adopt_roots: tuple[str, ...] | None = None
    """Places from which archives may be adopted; None: from any."""
    ask: Callable[..., Any] = _nothing
    """Name and arguments of a question to the index (``edges.QUESTIONS``) to its answer."""
    plan: Callable[[str, Row], Row] = _nothing
    """`simulate` or `size`, and the order, to the answer; raises ConfigError, IllegalTransition."""
    node: Row = field(default_factory=dict)
    """What this node says of itself (the fields of NodeInfo)."""
