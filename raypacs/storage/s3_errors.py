"""What an S3 store's failures mean: which error it is to raypacs, and whether it may pass.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and what MinIO, Ceph and
StorageGRID answer when they are full.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as StoreConnectionError,
)
from botocore.parsers import ResponseParserError
from obstore.exceptions import BaseError

from raypacs.errors import AlreadyExists, NotFound, RaypacsError, TierFull, TierUnavailable

T = TypeVar("T")

# Everything the two libraries raise on purpose. obstore's NotFoundError is a FileNotFoundError.
STORE_ERRORS = (ClientError, BotoCoreError, ResponseParserError, BaseError, FileNotFoundError)

REPEAT_FOR = 3  # times the timeout
_FIRST_PAUSE_S = 0.1

_FULL = frozenset(
    {
        *("QuotaExceeded", "QuotaExceededException", "EntityTooLarge", "InsufficientStorage"),
        *("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity"),
    }
)
_AGAIN = frozenset(
    {
        *(
            "SlowDown",
            "Throttling",
            "ThrottlingException",
            "RequestLimitExceeded",
            "BandwidthLimit",
        ),
        *("RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"),
        *("ConditionalRequestConflict", "BadDigest", "XAmzContentSHA256Mismatch"),
    }
)
_MISSING = frozenset({"NoSuchKey", "NotFound"})
_NO_KEYS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    ProfileNotFound,
)
_KEYS_HINT = (
    "give the node keys (environment, ~/.aws, or `credentials_file` of the tier) that may read and "
    "write the bucket; see docs/tiers.md"
)
_CONNECTION_HINT = (
    "see that the store runs and this host reaches it, and that `endpoint_url` in [tiers.s3] is "
    "its address; see docs/tiers.md"
)
_CERTIFICATE_HINT = (
    "see that `endpoint_url` in [tiers.s3] is https where the store speaks it, and `ca_file` the "
    "authority that signed its certificate"
)
_HINTS = {
    "NoSuchBucket": "make the bucket, or put its name right in the tier's url",
    "RequestTimeTooSkewed": "set the clock of this host: signatures hold for 15 minutes only",
}
# obstore tells the answer only as text.
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request: the error it is, the store's code, and when it may be asked again."""

    error: RaypacsError
    code: str = ""
    status: int = 0
    again: bool = False
    after_s: float = 0.0


def failure(exc: Exception, tier: str, path: str) -> Failure:
    """Tell what one of ``STORE_ERRORS`` means."""
    if isinstance(exc, ClientError):
        answer: dict[str, Any] = exc.response
        told = answer.get("ResponseMetadata", {})
        status = int(told.get("HTTPStatusCode", 0))
        code = str(answer.get("Error", {}).get("Code", ""))
        code = "" if code == str(status) else code  # the answer to a HEAD has no body
        text = str(answer.get("Error", {}).get("Message", "")) or code
        after_s = _after_s(told.get("HTTPHeaders", {}).get("retry-after", ""))
        return _answered(tier, path, code, status, text, after_s)
    if isinstance(exc, BaseError | FileNotFoundError):
        text = str(exc)
        found, named = _STATUS.search(text), _CODE.search(text)
        if found or isinstance(exc, FileNotFoundError):
            status = int(found[1]) if found else 404
            code = named[1] if named else ""
            return _answered(tier, path, code, status, code or f"answer {status}")
        hint = _CERTIFICATE_HINT if "certificate" in text.lower() else _CONNECTION_HINT
        return Failure(_unavailable(tier, path, _first_line(text), hint), again=True)
    if isinstance(exc, _NO_KEYS):
        error = _unavailable(tier, path, f"no keys for the store: {exc}", _KEYS_HINT)
        return Failure(error)
    broken = HTTPClientError | IncompleteReadError | ResponseParserError
    again = isinstance(exc, broken) and not isinstance(exc, SSLError)
    hint = _CONNECTION_HINT if isinstance(exc, broken | StoreConnectionError) else ""
    hint = _CERTIFICATE_HINT if isinstance(exc, SSLError) else hint
    return Failure(_unavailable(tier, path, _first_line(str(exc)), hint), again=again)


def _answered(
    tier: str, path: str, code: str, status: int, text: str, after_s: float = 0.0
) -> Failure:
    error: RaypacsError
    if status == 412 or code == "PreconditionFailed":
        error = AlreadyExists(f"tier {tier} has {path!r} already", path=path)
    elif status in (413, 507) or code in _FULL:
        error = TierFull(f"tier {tier} is full: the store says {text}", tier=tier)
    elif code in _MISSING or (status == 404 and not code):
        error = NotFound(f"tier {tier} has no object {path!r}", tier=tier, path=path)
    else:
        hint = _HINTS.get(code, _KEYS_HINT if status in (401, 403) else "")
        named = f"{code}: {text}" if code and code not in text else text
        error = _unavailable(tier, path, f"the store answers {status} {named}", hint)
        again = status >= 500 and status != 501
        again = again or status in (408, 409, 425, 429) or code in _AGAIN
        return Failure(error, code, status, again, after_s)
    return Failure(error, code, status)


def _unavailable(tier: str, path: str, why: str, hint: str = "") -> TierUnavailable:
    return TierUnavailable(f"tier {tier}: {why}", hint=hint, tier=tier, path=path)


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:300]


def _after_s(header: str) -> float:
    """Seconds of a Retry-After header (RFC 9110 section 10.2.3); a date counts as none."""
    return float(header) if header.isdecimal() else 0.0


def repeated(
    call: Callable[[], T],
    *,
    tier: str,
    path: str,
    timeout_s: float,
    again: Callable[[Failure], bool] = lambda failed: failed.again,
) -> T:
    """Call until it works, is refused for good, or has failed for three times ``timeout_s``.

    The pauses double, with chance in them so that many nodes do not come back in step, and are at
    least what the store asks for.

    Raises:
        NotFound, AlreadyExists, TierFull, TierUnavailable.
    """
    until_s = time.monotonic() + REPEAT_FOR * timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except STORE_ERRORS as exc:
            failed = failure(exc, tier, path)
            wait_s = max(failed.after_s, pause_s * random.uniform(0.5, 1.0))
            if not again(failed) or time.monotonic() + wait_s > until_s:
                raise failed.error from exc
        time.sleep(wait_s)
        pause_s = min(2 * pause_s, timeout_s)
