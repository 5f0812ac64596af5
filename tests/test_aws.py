"""What AWS says against a place as one line, whose credentials sign, and which region is asked."""

import contextlib
import pickle
import re
import sys
import time
from pathlib import Path

import boto3
import pytest
from s3 import DENIED, KEY_ID, SECRET, TOKEN, aws_of, error_xml, free_port, listing_xml, put

from sparkify.aws import aws_calls, aws_client, bucket_access
from sparkify.errors import PlaceError, UsageError
from sparkify.publish import check_output
from sparkify.storage import storage_of

ROOT = Path(__file__).resolve().parent.parent
USABLE = listing_xml({"in/song_data/a.json": 10, "in/log_data/a.json": 10})
COPIED = b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>"


@pytest.fixture(autouse=True)
def no_session_from_outside(no_aws_from_outside, monkeypatch):
    """boto3's default session keeps what it found in the environment."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def usable(method, path, query):
    """The answers of a server on which nothing is wrong."""
    if method == "GET":
        return 200, USABLE if path.startswith("/music") else listing_xml({})
    return 200, COPIED if method == "PUT" else b""


@pytest.fixture
def listening(scripted):
    return scripted(usable)


def refused(address, source="s3://music/in", output="s3://lake/out", **aws):
    """Look at an input and an output as a run does; gives the one line that is said against them, without a secret."""
    with pytest.raises((PlaceError, UsageError)) as error:
        storage_of(source, aws_of(address, **aws)).list()
        check_output(source, storage_of(output, aws_of(address, **aws)))
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 500
    assert SECRET not in line
    assert TOKEN not in line
    return line


WRONG_SIGNATURE = "The request signature we calculated does not match the signature you provided."


@pytest.mark.parametrize(
    ("status", "code", "message", "said"),
    [
        (403, "SignatureDoesNotMatch", WRONG_SIGNATURE, "AWS_SECRET_ACCESS_KEY"),
        (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.", "dl.cfg"),
        (400, "ExpiredToken", "The provided token has expired.", "AWS_SESSION_TOKEN"),
        (404, "NoSuchBucket", "The specified bucket does not exist", "no such bucket"),
        (403, "AccessDenied", "Access Denied", "s3:ListBucket"),
        (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is…", "clock"),
        (400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'", "REGION"),
        (301, "PermanentRedirect", "The bucket you are attempting to access must be addressed using …", "REGION"),
    ],
)
def test_what_s3_says_against_the_input_is_one_line(scripted, status, code, message, said):
    server = scripted(lambda *_: (status, error_xml(code, message)))
    line = refused(server.address, aws_session_token=TOKEN)
    assert line.startswith(f"s3://music/in: {code}: ")
    assert said in line


def test_a_place_error_has_fields_and_can_be_pickled():
    error = pickle.loads(pickle.dumps(PlaceError("s3://b/k", "AccessDenied: no", "ask for more")))
    assert (error.place, error.said, error.hint) == ("s3://b/k", "AccessDenied: no", "ask for more")
    assert str(error) == "s3://b/k: AccessDenied: no: ask for more"


def test_what_is_none_of_awss_errors_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError), aws_calls("s3://b", "s3:GetObject"):
        raise ZeroDivisionError


def test_an_endpoint_that_does_not_answer_is_named():
    start = time.monotonic()
    assert "ENDPOINT_URL" in refused(f"http://127.0.0.1:{free_port()}")
    assert time.monotonic() - start < 30  # not ten tries of 20 seconds


def test_an_endpoint_that_is_no_address_is_named():
    assert "ENDPOINT_URL is an address" in refused("localhost")


def test_a_key_with_a_line_break_is_not_quoted(listening):
    line = refused(listening.address, aws_session_token=f"{TOKEN}\n{TOKEN}")
    assert "InvalidKey" in line


@pytest.mark.parametrize(("method", "permission"), [("PUT", "s3:PutObject"), ("DELETE", "s3:DeleteObject")])
def test_an_output_that_cannot_be_written_is_refused(scripted, method, permission):
    server = scripted(lambda asked, *more: (403, DENIED) if asked == method else usable(asked, *more))
    line = refused(server.address)
    assert "s3://lake/out" in line
    assert permission in line
    written = [path for asked, path, *_ in server.requests if asked in ("PUT", "DELETE")]
    assert all(path.startswith("/lake/out/_staging/") for path in written)


def test_a_missing_bucket_is_refused(s3, endpoint):
    assert "s3://music/in: NoSuchBucket" in refused(endpoint)
    put(s3, "only-input", {"in/song_data/a.json": b"{}", "in/log_data/a.json": b"{}"})
    assert "s3://nowhere-else: NoSuchBucket" in refused(endpoint, "s3://only-input/in", "s3://nowhere-else")


@pytest.mark.parametrize("place", ["hdfs://namenode/out", "gs://b/in"])
def test_what_is_neither_s3_nor_a_folder_is_refused(place):
    with pytest.raises(UsageError, match=f"{place}: only s3://.*s3-dist-cp"):
        storage_of(place, {})


def test_without_boto3_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "pip install boto3" in refused("http://127.0.0.1:1")


# ---- Credentials and regions -----------------------------------------------------------------------------


def signature(server, aws):
    """The headers Authorization and X-Amz-Security-Token of a call by a storage, and what it found out."""
    storage = storage_of("s3://music/in", aws)
    storage.list()
    headers = {name.lower(): value for name, value in server.requests[-1][3].items()}
    return headers.get("authorization"), headers.get("x-amz-security-token"), storage


def test_the_keys_of_the_configuration_sign(listening, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "other")
    authorization, token, _ = signature(listening, aws_of(listening.address))
    assert f"Credential={KEY_ID}/" in authorization
    assert token is None


def test_a_session_token_of_the_configuration_is_sent(listening):
    assert signature(listening, aws_of(listening.address, aws_session_token=TOKEN))[1] == TOKEN


def test_a_session_token_alone_is_no_key(listening, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    aws = {"endpoint_url": listening.address, "aws_session_token": TOKEN}
    assert signature(listening, aws)[0] is None


def test_without_keys_a_profile_serves(listening, monkeypatch, tmp_path):
    (tmp_path / "profiles").write_text(f"[sparkify]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "profiles"))
    monkeypatch.setenv("AWS_PROFILE", "sparkify")
    authorization, _, storage = signature(listening, {"endpoint_url": listening.address})
    assert f"Credential={KEY_ID}/" in authorization
    assert KEY_ID not in storage.aws.values()


def test_a_missing_profile_is_one_line(monkeypatch, listening):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in refused(listening.address)


def test_without_any_credentials_requests_are_not_signed(listening):
    authorization, _, storage = signature(listening, {"endpoint_url": listening.address})
    assert authorization is None
    listening.answer = lambda *_: (200, b"text")
    assert storage.read("a.json") == b"text"
    *_, query, headers = listening.requests[-1]
    assert not query
    assert "Authorization" not in headers


@pytest.mark.parametrize(("configured", "region"), [({}, "eu-west-1"), ({"region": "us-west-2"}, "us-west-2")])
def test_the_region_is_the_configured_one_else_the_buckets(s3, endpoint, monkeypatch, configured, region):
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket="ireland", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET}
    found = bucket_access({**keys, **configured}, "ireland")
    assert (found["region"], aws_client(found, "s3").meta.region_name) == (region, region)
    assert found["endpoint_url"] == endpoint


@pytest.mark.parametrize(
    ("status", "body"), [(200, b""), (403, b""), (405, b""), (501, error_xml("NotImplemented", "no"))]
)
def test_a_server_that_says_nothing_of_a_region_is_asked_in_the_usual_one(scripted, status, body):
    server = scripted(lambda method, *more: (status, body) if method == "HEAD" else usable(method, *more))
    _, _, storage = signature(server, aws_of(server.address))
    assert "region" not in storage.aws
    assert storage.client.meta.region_name == "us-east-1"


def test_no_private_name_of_boto3s_is_used():
    for path in (ROOT / "sparkify").glob("*.py"):
        found = re.search(r"(client|session|hasty|boto3|botocore)\.(\w+\.)*_[a-z]\w*", path.read_text())
        assert not found, (path.name, found[0])
