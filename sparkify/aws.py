"""boto3's clients, and what AWS says as one line with a hint."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from sparkify.errors import PlaceError, UsageError
from sparkify.parallel import REQUESTS

POLL_ATTEMPTS = 40  # of one poll, about ten minutes: a lost network ends nothing that is only watched
AWS_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
AWS_DENIALS = "AccessDenied AccessDeniedException UnauthorizedOperation AllAccessDisabled 403 Forbidden"
AWS_HINTS = {
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of dl.cfg, or of the environment or profile": (
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidClientTokenId InvalidSecurity"
    ),
    "the credentials have expired: get new ones (AWS_SESSION_TOKEN of dl.cfg among them), or `aws sso login`": (
        "ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired RequestExpired UnauthorizedSSOTokenError "
        "SSOTokenLoadError TokenRetrievalError"
    ),
    "there is no such bucket: check its name, and ENDPOINT_URL of dl.cfg": "NoSuchBucket InvalidBucketName",
    "set this machine's clock": "RequestTimeTooSkewed",
    "check REGION of dl.cfg; left empty, it is found out from the bucket": (
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301"
    ),
    "nothing answers there: check ENDPOINT_URL of dl.cfg, and the network": (
        "EndpointConnectionError ConnectTimeoutError ReadTimeoutError ConnectionClosedError ProxyConnectionError "
        "SSLError"
    ),
    "AWS still asks to slow down after many tries: run it again later": (
        "SlowDown ServiceUnavailable Throttling ThrottlingException"
    ),
    "check AWS_PROFILE and the other AWS_… of the environment, dl.cfg, and ~/.aws": (
        "InvalidKey ProfileNotFound ConfigParseError PartialCredentialsError InvalidRegionError"
    ),
}


def aws_session(aws: dict[str, str]) -> Any:
    """A boto3 session with the keys of dl.cfg's [AWS], {key: value}; without them AWS's own chain finds credentials."""
    try:
        import boto3
        import botocore.session
    except ImportError:
        raise UsageError("boto3 isn't installed, and S3 needs it: pip install boto3") from None
    if not boto3.DEFAULT_SESSION:
        session = botocore.session.get_session()
        # Its own reading of times takes three quarters of the time of a listing.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
        boto3.setup_default_session(botocore_session=session)
    keys = [aws.get(name) for name in AWS_KEYS]
    return boto3.Session(*keys) if keys[0] else boto3.DEFAULT_SESSION


def _moment(value: Any) -> datetime:
    """A time that AWS gives, as 2018-11-30T20:15:00.000Z or as Fri, 30 Nov 2018 20:15:00 GMT, or as another form."""
    with contextlib.suppress(TypeError, ValueError):
        return parsedate_to_datetime(value) if "," in value else datetime.fromisoformat(value.replace("Z", "+00:00"))
    from botocore.utils import parse_timestamp  # asked here alone: an import takes longer than to read a time

    return parse_timestamp(value)


def aws_client(aws: dict[str, str], service: str, attempts: int = 10) -> Any:
    """A client of an AWS service, by dl.cfg's [AWS] as {key: value}; anonymous where there are no credentials."""
    session = aws_session(aws)
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    retries = {"mode": "adaptive", "total_max_attempts": attempts}
    options = {"retries": retries, "max_pool_connections": REQUESTS, "connect_timeout": 5}
    if aws.get("anonymous") or session.get_credentials() is None:
        options["signature_version"] = UNSIGNED
    if aws.get("endpoint_url"):
        # Servers that are compatible with S3 may know neither bucket names in the host name nor the newer checksums.
        options["s3"] = {"addressing_style": "path"}
        checksums = ("request_checksum_calculation", "response_checksum_validation")
        options.update({name: "when_required" for name in checksums if name in Config.OPTION_DEFAULTS})
    region = aws.get("region") or session.region_name or "us-east-1"
    keys = {name: aws.get(name) for name in AWS_KEYS}
    # The default session keeps what boto3 knows of a service: to read it again takes 80 ms a client.
    try:
        return boto3.client(service, region, endpoint_url=aws.get("endpoint_url"), config=Config(**options), **keys)
    except ValueError as error:
        if type(error) is not ValueError:  # one of boto3's
            raise
        raise UsageError(f"{error}: ENDPOINT_URL is an address such as http://localhost:9000") from None


def said_by_aws(error: Exception) -> tuple[str, str]:
    """(code, message) of what AWS, or boto3, raised: the message one line, and without any key."""
    said = (getattr(error, "response", None) or {}).get("Error", {})
    code, message = said.get("Code") or type(error).__name__, said.get("Message", "") or str(error)
    if "Invalid header value" in message:  # it quotes the key, or the token
        return "InvalidKey", "a key or the token holds a line break"
    return code, " ".join(message.split())[:200]


@contextlib.contextmanager
def aws_calls(place: str, permission: str, otherwise: str = "see what AWS says") -> Iterator[None]:
    """What AWS, or boto3, says against a call about a place becomes a PlaceError; otherwise: where no hint is known."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("boto3", "botocore", "s3transfer"):
            raise
        code, message = said_by_aws(error)
        hint = next((hint for hint, codes in AWS_HINTS.items() if code in codes.split()), otherwise)
        if code in AWS_DENIALS.split():
            hint = f"the credentials, if any were found, need the permission {permission} there"
        raise PlaceError(place, f"{code}: {message}", hint) from None


def bucket_access(aws: dict[str, str], bucket: str) -> dict[str, str]:
    """aws with what is found out: the bucket's region, the endpoint, that there are no keys. Raises PlaceError."""
    with aws_calls(f"s3://{bucket}", "s3:ListBucket"):
        hasty = aws_client(aws, "s3", attempts=2)
        found = {} if aws_session(aws).get_credentials() else {"anonymous": "yes"}
        from botocore.exceptions import ClientError

        try:
            answer = hasty.head_bucket(Bucket=bucket)
        except ClientError as error:
            answer = error.response  # it names the region all the same; what is wrong will be said by a fuller answer
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    if region and not aws.get("region"):
        found["region"] = region
    if ".amazonaws.com" not in hasty.meta.endpoint_url:
        found["endpoint_url"] = hasty.meta.endpoint_url
    return {**aws, **found}
