"""Every error raypacs raises on purpose: one root, data in fields, a hint for the operator."""

from __future__ import annotations


class RaypacsError(Exception):
    """Root of all raypacs errors.

    ``hint`` says, in one sentence, what an operator can do about it.
    """

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "", **fields: object) -> None:
        super().__init__(message)
        if hint:
            self.hint = hint
        self.fields = fields

    def __reduce__(self) -> tuple[object, ...]:
        # Fields and hint survive pickling, so an error keeps its story across processes.
        return (_rebuild, (type(self), str(self), self.hint, self.fields))


def _rebuild(
    kind: type[RaypacsError], message: str, hint: str, fields: dict[str, object]
) -> RaypacsError:
    return kind(message, hint=hint, **fields)


class ConfigError(RaypacsError, ValueError):
    """A setting is unknown, missing or out of range; names the setting."""


class MalformedInstance(RaypacsError, ValueError):
    """Bytes that are not a storable DICOM instance; ``status`` is the DIMSE status to answer."""

    def __init__(
        self, message: str, *, status: int = 0xC000, hint: str = "", **fields: object
    ) -> None:
        super().__init__(message, hint=hint, status=status, **fields)
        self.status = status


class UnsupportedPixels(RaypacsError, ValueError):
    """A frame that this version does not transcode; the instance is copied as received."""


class ProofFailed(RaypacsError):
    """A prepared frame, decoded again, differed from its source; it does not count as prepared."""


class NotFound(RaypacsError, LookupError):
    """No such study, series, instance, frame, object or setting."""


class InstanceAway(RaypacsError, LookupError):
    """The bytes of an instance are not on its image tier: it moved, or is only in a library.

    ``fields["study_uid"]`` names its study.
    """

    hint = "`raypacs restore` brings a study back from a library"


class RestoreUnderWay(RaypacsError):
    """A study is being brought back from a library, and not there yet; ask again.

    ``fields``: ``study_uid``, ``item_id``, ``percent``, ``url`` of the restore.
    """

    hint = "ask again after Retry-After; `raypacs restore` shows how far it is"


class RestoreFailed(RestoreUnderWay):
    """A study could not be brought back from a library, or not all of it; says why."""

    hint = "`raypacs restore` tries again; `raypacs archive verify` shows what libraries have"


class ObjectChanged(NotFound):
    """A file of an adopted archive is not the one that was adopted any more."""

    hint = "`raypacs adopt` again lists what changed; delete the study and adopt it with --deleted"


class InvalidQuery(RaypacsError, ValueError):
    """A search with a value that cannot be (limit, offset, date range); names the key."""


class AlreadyExists(RaypacsError, FileExistsError):
    """Exclusive create met an existing object."""


class TierFull(RaypacsError, OSError):
    """A tier has no room; nothing was written."""

    hint = "free space on the tier, raise its capacity, or add another tier"


class TierUnavailable(RaypacsError, OSError):
    """A tier cannot be reached or written."""


class PackCorrupt(RaypacsError, ValueError):
    """A pack or its header sidecar does not match its checksums or its specification."""


class ManifestCorrupt(RaypacsError, ValueError):
    """A manifest of a sealed series does not match its checksum, or is of a later version."""


class ContainerCorrupt(RaypacsError, ValueError):
    """A container of a library is damaged, or none; ``why`` in the message."""


class StudySealed(RaypacsError):
    """The instances of the study lie in manifests: it must be reopened before it can change.

    ``fields["study_uids"]`` names the studies.
    """


class StaleEpoch(RaypacsError):
    """A newer master has claimed a later epoch; this one must stop."""


class StaleLease(RaypacsError):
    """A report carried a lease that is no longer the item's current one."""


class IndexRefused(RaypacsError, ValueError):
    """The index cannot hold a record (which says nothing about the others); holds no values."""


class IllegalTransition(RaypacsError):
    """A work item was asked for a transition its state does not have."""


class MasterUnavailable(RaypacsError, ConnectionError):
    """The master did not answer within the bounded retry; calls are idempotent: ask again."""

    hint = "the master restarts by itself within seconds; `raypacs status` shows when it is back"


class IndexUnavailable(MasterUnavailable):
    """The database under the index does not work just now: disk full, locked, not reachable."""

    hint = "free space under the index, or see why its database does not answer; nothing is lost"


class NodeNotRunning(RaypacsError, ConnectionError):
    """No node answers where one was expected."""

    hint = "start one with `raypacs up --detach`, or name one with --url"


class RequestRefused(RaypacsError):
    """A node answered a request with an error that has no class of its own."""
