"""HTTP client of a node's REST API (docs/rest.md) and DICOMweb: used by the CLI and by jobs."""

from raypacs.client.archive import ArchiveCalls
from raypacs.client.caches import CacheCalls
from raypacs.client.evictions import EvictionCalls
from raypacs.client.http import URL_VARIABLE, error_of, find_url
from raypacs.client.operations import OperatorCalls
from raypacs.client.planning import PlanningCalls
from raypacs.client.restores import RestoreCalls
from raypacs.client.statuses import StatusCalls
from raypacs.client.studies import AS_STORED, StudyCalls
from raypacs.client.tiers import TierCalls

__all__ = ["AS_STORED", "URL_VARIABLE", "Client", "error_of", "find_url"]


class Client(
    StudyCalls,
    OperatorCalls,
    CacheCalls,
    PlanningCalls,
    TierCalls,
    EvictionCalls,
    RestoreCalls,
    ArchiveCalls,
    StatusCalls,
):
    """Calls to one node; thread-safe, keeps connections open."""
