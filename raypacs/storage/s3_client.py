"""One bucket of an S3 store: requests with bounded time, and errors of raypacs.

Two libraries, one set of keys (docs/decisions/0013): obstore reads, because a small range costs it
a tenth of the processor time; botocore does everything else, because it tells the store's answer
exactly and knows every request (multipart uploads, conditions, listings of uploads).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from botocore.config import Config
from botocore.credentials import SharedCredentialProvider
from botocore.exceptions import BotoCoreError, NoCredentialsError
from botocore.session import Session
from obstore.exceptions import BaseError
from obstore.store import S3Store

from raypacs.errors import AlreadyExists, ConfigError, NotFound, TierUnavailable
from raypacs.object_store import S3Access
from raypacs.storage.extents import Extent
from raypacs.storage.s3_errors import STORE_ERRORS, Failure, failure, repeated

if TYPE_CHECKING:
    from obstore.store import S3Credential

T = TypeVar("T")

# Ranges that are read together become requests of at most this.
PIECE_BYTES = 16 * 1024 * 1024
# Above this botocore reads faster: it copies a body once, obstore three times.
SMALL_BYTES = 1024 * 1024
# Metadata of every object: who wrote it. An answer that got lost is told from somebody else's
# object by it.
WRITER = "raypacs-writer"
_REGION = "us-east-1"
_CONNECTIONS = 32
_CONNECT_S = 5.0
# A piece that trickles in ends after this many times the timeout.
_WHOLE_PIECE = 12
_KEYS_HELD = timedelta(minutes=5)
# Keys that obstore refuses (ValueError), though S3 has them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# obstore's threads do not survive a fork: a child of a process that used it reads by botocore.
_runtime_pid = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing."""

    key: str
    size_bytes: int
    modified_s: float


class S3Client:
    """The bucket as one process sees it; thread-safe, and usable again after a fork."""

    def __init__(self, tier: str, bucket: str, access: S3Access) -> None:
        """Connects nowhere. Raises ConfigError, TierUnavailable (no keys)."""
        self.tier = tier
        self.bucket = bucket
        self.access = access
        self._conditional = True
        self._by_process: dict[int, tuple[Any, S3Store]] = {}
        self._clients()

    # ---- connections ---------------------------------------------------------------------------
    def _clients(self) -> tuple[Any, S3Store]:
        # No lock: one that another thread holds while this process forks would never be released.
        found = self._by_process.get(os.getpid())
        if found is None:
            found = self._by_process.setdefault(os.getpid(), self._connected())
        return found

    def _connected(self) -> tuple[Any, S3Store]:
        try:
            session = Session(profile=self.access.profile or None)
            if self.access.credentials_file:
                self._keys_of_file(session)
            region = self.access.region or session.get_config_variable("region") or _REGION
            client = session.create_client(
                "s3",
                region_name=region,
                endpoint_url=self.access.endpoint_url or None,
                verify=self.access.ca_file or None,
                config=self._config(),
            )
            keys = session.get_credentials()
            if keys is None:
                raise NoCredentialsError
            store = self._store(client.meta.endpoint_url, region, keys)
        except (*STORE_ERRORS, ValueError, OSError) as exc:
            if isinstance(exc, BotoCoreError):
                raise failure(exc, self.tier, "").error from exc
            raise ConfigError(f"tier {self.tier}: {exc}", tier=self.tier) from exc
        return client, store

    def _keys_of_file(self, session: Session) -> None:
        """Take the keys of the tier's own file, whatever the environment of the node holds."""
        path = os.path.expanduser(self.access.credentials_file)
        session.set_config_variable("credentials_file", path)
        with open(path, "rb"):  # botocore takes a missing file for an empty one
            pass
        keys = SharedCredentialProvider(path, self.access.profile or None).load()
        if keys is None:
            raise ValueError(
                f"{path} has no keys of the profile {self.access.profile or 'default'!r}"
            )
        session.set_credentials(keys.access_key, keys.secret_key, keys.token)

    def _config(self) -> Config:
        return Config(
            connect_timeout=min(_CONNECT_S, self.access.timeout_s),
            read_timeout=self.access.timeout_s,
            retries={"total_max_attempts": 1, "mode": "standard"},  # s3_errors.repeated does
            max_pool_connections=_CONNECTIONS,
            # The signature covers the body; the newer checksums are unknown to many stores.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if self.access.path_style else "virtual"},
            user_agent_extra="raypacs",
        )

    def _store(self, endpoint: str, region: str, keys: Any) -> S3Store:
        def told() -> S3Credential:
            frozen = keys.get_frozen_credentials()  # fetched anew when they end soon
            return {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token,
                "expires_at": datetime.now(UTC) + _KEYS_HELD,
            }

        limit_s = self.access.timeout_s
        options: dict[str, Any] = {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=min(_CONNECT_S, limit_s)),
            "read_timeout": timedelta(seconds=limit_s),
            "timeout": timedelta(seconds=_WHOLE_PIECE * limit_s),
        }
        if self.access.ca_file:
            with open(self.access.ca_file, "rb") as file:
                options["root_certificate"] = file.read()
        virtual = not self.access.path_style
        if virtual:  # obstore wants the bucket in the host name already
            scheme, _, host = endpoint.partition("://")
            endpoint = f"{scheme}://{self.bucket}.{host}"
        return S3Store(
            self.bucket,
            endpoint=endpoint,
            region=region,
            virtual_hosted_style_request=virtual,
            client_options=options,  # type: ignore[arg-type]
            retry_config={"max_retries": 0},
            credential_provider=told,
        )

    def _ask(
        self,
        path: str,
        call: Callable[[], T],
        again: Callable[[Failure], bool] = lambda failed: failed.again,
    ) -> T:
        return repeated(
            call, tier=self.tier, path=path, timeout_s=self.access.timeout_s, again=again
        )

    def request(self, operation: str, path: str, **values: Any) -> dict[str, Any]:
        """Send one request that may safely be repeated; ``path`` is for the error."""
        asked = getattr(self._clients()[0], operation)

        def once() -> dict[str, Any]:
            if "Body" in values:
                values["Body"].seek(0)  # an attempt that failed has read it
            return dict(asked(Bucket=self.bucket, **values))

        return self._ask(path, once)

    def ask_once(self, operation: str, **values: Any) -> None:
        """Send one request; what the store or the library raises comes as it is."""
        getattr(self._clients()[0], operation)(Bucket=self.bucket, **values)

    def check(self) -> None:
        """See that the bucket is there and answers. Raises TierUnavailable."""
        client = self._clients()[0]
        try:
            client.head_bucket(Bucket=self.bucket)
        except STORE_ERRORS as exc:
            failed = failure(exc, self.tier, "")
            if isinstance(failed.error, NotFound):
                raise self._no_bucket() from exc
            raise failed.error from exc

    def _no_bucket(self) -> TierUnavailable:
        return TierUnavailable(
            f"tier {self.tier}: there is no bucket {self.bucket!r}",
            hint="make the bucket, or put its name right in the tier's url",
            tier=self.tier,
        )

    # ---- reading -------------------------------------------------------------------------------
    def get(self, key: str, start: int, length: int) -> tuple[bytes, int]:
        """Return up to ``length`` bytes from ``start``, and the size of the object (0: past it).

        Raises:
            NotFound, TierUnavailable.
        """
        return self._ask(key, lambda: self._get(key, start, length))

    def _get(self, key: str, start: int, length: int) -> tuple[bytes, int]:
        client, store = self._clients()
        try:
            if length > SMALL_BYTES or not _may_use_obstore(key):
                return _get_by_botocore(client, self.bucket, key, start, length)
            found = obstore.get(store, key, options={"range": (start, start + length)})
            return bytes(found.bytes()), found.meta["size"]
        except STORE_ERRORS as exc:
            if failure(exc, self.tier, key).status == 416:  # begins at or behind the end
                return b"", 0
            raise

    def get_many(self, key: str, extents: Sequence[Extent]) -> list[bytes]:
        """Return the bytes of each extent, at most ten requests at once; fewer past the end.

        None may be longer than ``PIECE_BYTES``, nor empty.

        Raises:
            NotFound, TierUnavailable.
        """
        if not extents:
            return []
        if len(extents) == 1 or not _may_use_obstore(key):
            return [self.get(key, start, length)[0] for start, length in extents]
        starts, lengths = zip(*extents, strict=True)
        store = self._clients()[1]
        try:
            found = self._ask(
                key,
                lambda: obstore.get_ranges(store, key, starts=starts, lengths=lengths, coalesce=0),
            )
        except TierUnavailable as exc:
            cause = exc.__cause__
            if isinstance(cause, BaseError) and failure(cause, self.tier, key).status == 416:
                return [self.get(key, start, length)[0] for start, length in extents]
            raise
        return [bytes(one) for one in found]

    def head(self, key: str) -> dict[str, Any]:
        """Return size, time and metadata as botocore tells them. Raises NotFound, TierUnavailable.

        The answer to a HEAD has no body: a missing bucket looks like a missing object, so the
        bucket is asked for as well.
        """
        try:
            return self.request("head_object", key, Key=key)
        except NotFound:
            self._ask(key, self.check)
            raise

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield every object whose key starts with ``prefix``, a thousand per request."""
        token: dict[str, str] = {}
        while True:
            page = self.request("list_objects_v2", prefix, Prefix=prefix, **token)
            for one in page.get("Contents", ()):
                yield Listed(one["Key"], one["Size"], one["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    # ---- writing -------------------------------------------------------------------------------
    def put(self, key: str, data: bytes, writer: str) -> None:
        """Create an object by one request. Raises AlreadyExists, TierFull, TierUnavailable.

        By obstore at first. A repetition goes by botocore: it tells when the store wants it.
        """
        tried = 0

        def once(condition: dict[str, str]) -> None:
            nonlocal tried
            tried += 1
            if tried > 1 or not _may_use_obstore(key):
                told = {WRITER: writer}
                self.ask_once("put_object", Key=key, Body=data, Metadata=told, **condition)
                return
            obstore.put(
                self._clients()[1],
                key,
                data,
                attributes={WRITER: writer},
                use_multipart=False,
                mode="create" if condition else "overwrite",
            )

        self.create_once(key, writer, once)

    def create_once(self, key: str, writer: str, call: Callable[[dict[str, str]], object]) -> None:
        """Make an object visible by ``call``, which is given the condition to send with it.

        An answer may be lost although the object is there: then the repeated request is refused,
        or none is answered. What ``writer`` wrote is known by its metadata.

        Raises:
            AlreadyExists, TierFull, TierUnavailable.
        """
        tried = 0

        def once() -> None:
            nonlocal tried
            tried += 1
            call({"IfNoneMatch": "*"} if self._conditional else {})

        def again(failed: Failure) -> bool:
            if failed.status == 501 and self._conditional:
                # A store without conditional writes: asked beforehand, which leaves a moment in
                # which two writers of one path both pass. No path but a marker has two writers.
                self._conditional = False
                self._check_absent(key, writer)
                return True
            return failed.again

        if not self._conditional:
            self._check_absent(key, writer)
        try:
            self._ask(key, once, again)
        except (AlreadyExists, NotFound, TierUnavailable) as exc:
            # NotFound: a multipart upload that is complete has no id any more.
            if (tried > 1 or isinstance(exc, TierUnavailable)) and self._wrote(key, writer):
                return
            if isinstance(exc, NotFound):
                raise TierUnavailable(f"tier {self.tier}: {exc}", tier=self.tier) from exc
            raise

    def _check_absent(self, key: str, writer: str) -> None:
        try:
            found = self.head(key)
        except NotFound:
            return
        if found.get("Metadata", {}).get(WRITER) != writer:
            raise AlreadyExists(f"tier {self.tier} has {key!r} already", path=key)

    def _wrote(self, key: str, writer: str) -> bool:
        """Whether the object is there and ``writer``'s; False where the store does not answer."""
        try:
            found = self._clients()[0].head_object(Bucket=self.bucket, Key=key)
        except STORE_ERRORS:
            return False
        return bool(found.get("Metadata", {}).get(WRITER) == writer)


def _may_use_obstore(key: str) -> bool:
    if not key.isprintable() and _CONTROL.search(key):  # the first is quick
        return False
    global _runtime_pid
    if not _runtime_pid:
        _runtime_pid = os.getpid()
    return _runtime_pid == os.getpid()


def _get_by_botocore(
    client: Any, bucket: str, key: str, start: int, length: int
) -> tuple[bytes, int]:
    wanted = f"bytes={start}-{start + length - 1}"
    answer = client.get_object(Bucket=bucket, Key=key, Range=wanted)
    size = int(answer["ContentRange"].rpartition("/")[2])
    return bytes(answer["Body"].read()), size
