"""Where an S3 store is and who asks: settings without keys, mistakes told as such."""

from __future__ import annotations

import io
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ReadTimeoutError, SSLError
from obstore.exceptions import GenericError

from raypacs.config import Settings, TierSettings, parse
from raypacs.errors import AlreadyExists, ConfigError, NotFound, TierFull, TierUnavailable
from raypacs.object_store import S3Access
from raypacs.storage.s3 import S3Tier
from raypacs.storage.s3_client import S3Client
from raypacs.storage.s3_errors import failure
from raypacs.storage.s3_writer import Chunks
from raypacs.storage.tier import open_tier

_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def tier_settings(**values: Any) -> dict[str, Any]:
    return {"name": "t1", "role": "image", "url": "s3://bucket/prefix"} | values


def test_settings_name_the_wrong_key_and_refuse_keys_in_a_url() -> None:
    told = {"tiers": [tier_settings(s3={"endpoint": "https://store"})]}
    with pytest.raises(ConfigError, match="did you mean 'endpoint_url'"):
        parse(Settings, told, "test")
    for endpoint in ("store:9000", "ftp://store", "https://", "https://me:secret@store"):
        with pytest.raises(ValueError, match="endpoint_url"):
            S3Access.model_validate({"endpoint_url": endpoint})
    with pytest.raises(ValueError, match="part_bytes"):
        S3Access(part_bytes=1024)


def test_a_tier_without_a_store_says_nothing_of_one() -> None:
    plain = TierSettings(name="t", role="image", url="file:///x")
    assert "s3" not in plain.model_dump(mode="json")
    access = S3Access(endpoint_url="https://store:9000")
    stored = TierSettings.model_validate(tier_settings(s3=access))
    assert TierSettings.model_validate(stored.model_dump(mode="json")) == stored
    assert hash(stored) != hash(plain)
    assert pickle.loads(pickle.dumps(stored)) == stored


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://key@bucket/x", "s3://b/../x"])
def test_a_url_that_names_no_bucket_is_a_mistake(url: str) -> None:
    with pytest.raises(ConfigError):
        open_tier(TierSettings.model_validate(tier_settings(url=url)))


@pytest.mark.usefixtures("no_keys")
def test_without_keys_the_tier_is_unavailable_and_says_what_to_do() -> None:
    access = {"endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(TierUnavailable) as error:
        open_tier(TierSettings.model_validate(tier_settings(s3=access)))
    assert "credentials_file" in error.value.hint
    with pytest.raises(TierUnavailable):
        S3Client("t", "bucket", S3Access(profile="nobody"))


@pytest.mark.usefixtures("no_keys")
def test_keys_come_from_a_file_and_are_told_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("[default]\naws_access_key_id = AKIA1\naws_secret_access_key = hidden\n")
    access = {"endpoint_url": "http://127.0.0.1:9", "credentials_file": str(path)}
    settings = TierSettings.model_validate(tier_settings(s3=access | {"timeout_s": 0.2}))
    with pytest.raises(TierUnavailable) as error:
        S3Tier(settings)  # found keys, but nobody answers
    assert "127.0.0.1:9" in str(error.value)
    told = f"{error.value} {error.value.hint} {error.value.fields} {settings!r}"
    assert "hidden" not in told
    assert "AKIA1" not in told


def test_the_file_of_a_tier_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment")
    path = tmp_path / "keys"
    access = S3Access(endpoint_url="http://127.0.0.1:9", credentials_file=str(path))
    with pytest.raises(ConfigError, match="keys"):
        S3Client("t", "bucket", access)
    path.write_text("[other]\naws_access_key_id = file\naws_secret_access_key = hidden\n")
    with pytest.raises(ConfigError, match="has no keys of the profile 'default'"):
        S3Client("t", "bucket", access)
    client = S3Client("t", "bucket", access.model_copy(update={"profile": "other"}))
    assert client._clients()[0]._request_signer._credentials.access_key == "file"


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://127.0.0.1:9", "endpoint_url"), ("http://no-such-host.invalid", "endpoint_url")],
)
def test_a_store_that_does_not_answer_says_where_to_look(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    access = {"endpoint_url": url, "timeout_s": 0.5}
    with pytest.raises(TierUnavailable) as error:
        S3Tier(TierSettings.model_validate(tier_settings(s3=access)))
    assert said in error.value.hint


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (SSLError(endpoint_url="https://x", error="self-signed"), "ca_file"),
        (GenericError("error sending request: invalid peer certificate"), "ca_file"),
        (GenericError("error sending request: tcp connect error"), "endpoint_url"),
        (ReadTimeoutError(endpoint_url="https://x"), "endpoint_url"),
    ],
)
def test_broken_connections_have_hints(exc: Exception, said: str) -> None:
    assert said in failure(exc, "t1", "a/b").error.hint


def answer(status: int, code: str, **headers: str) -> ClientError:
    told = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError(
        {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": told},  # type: ignore[arg-type]
        "PutObject",
    )


@pytest.mark.parametrize(
    ("exc", "kind", "again"),
    [
        (answer(412, "PreconditionFailed"), AlreadyExists, False),
        (answer(409, "ConditionalRequestConflict"), TierUnavailable, True),
        (answer(404, "NoSuchKey"), NotFound, False),
        (answer(404, "404"), NotFound, False),
        (answer(404, "NoSuchBucket"), TierUnavailable, False),
        (answer(403, "AccessDenied"), TierUnavailable, False),
        (answer(403, "QuotaExceeded"), TierFull, False),
        (answer(507, ""), TierFull, False),
        (answer(503, "SlowDown"), TierUnavailable, True),
        (answer(500, "InternalError"), TierUnavailable, True),
        (answer(501, "NotImplemented"), TierUnavailable, False),
        (answer(400, "RequestTimeout"), TierUnavailable, True),
        (answer(400, "InvalidArgument"), TierUnavailable, False),
        (ReadTimeoutError(endpoint_url="http://x"), TierUnavailable, True),
        (NoCredentialsError(), TierUnavailable, False),
        (FileNotFoundError("status code: 404 <Code>NoSuchBucket</Code>"), TierUnavailable, False),
        (FileNotFoundError("status code: 404 Not Found"), NotFound, False),
        (GenericError("status code: 507 <Code>XMinioStorageFull</Code>"), TierFull, False),
        (GenericError("error sending request"), TierUnavailable, True),
    ],
)
def test_what_a_store_answers(exc: Exception, kind: type[Exception], again: bool) -> None:
    found = failure(exc, "t1", "a/b")
    assert (type(found.error), found.again) == (kind, again)


def test_retry_after_is_seconds_or_nothing() -> None:
    assert failure(answer(503, "SlowDown", **{"retry-after": "7"}), "t", "p").after_s == 7
    date = datetime(2026, 1, 1, tzinfo=UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert failure(answer(503, "SlowDown", **{"retry-after": date}), "t", "p").after_s == 0


def test_chunks_are_read_as_a_file_again_and_again() -> None:
    chunks = Chunks()
    data = bytes(range(256)) * 10_000
    for at in range(0, len(data), 700_000):
        chunks.append(memoryview(data)[at : at + 700_000])
    for _ in range(2):
        assert chunks.seek(0) == 0
        out = io.BytesIO()
        while piece := chunks.read(16):
            out.write(piece)
        assert out.getvalue() == data == chunks.joined()
        assert chunks.tell() == chunks.seek(0, 2) == len(chunks) == len(data)
    with pytest.raises(OSError, match="beginning"):
        chunks.seek(5)
    single = Chunks()
    single.append(memoryview(data))
    assert single.joined() is data
    assert Chunks().joined() == b""
