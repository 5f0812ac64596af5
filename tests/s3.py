"""S3 for the tests: moto's server, the benchmark's, and one that says what it is told; buckets filled and read."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
import pytest
from tables import until

from sparkify.s3 import S3Storage

SERVER = Path(__file__).resolve().parent / "bench/s3_server.py"

KEY_ID, SECRET, TOKEN = "AKIDEXAMPLEEXAMPLE11", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", "FwoGZXIvYXdzEXAMPLETOKEN"


@pytest.fixture
def no_aws_from_outside(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)


def free_port():
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port))):
        return True
    return False


@contextlib.contextmanager
def serving(folder, *arguments, program=sys.executable):
    """Run a server on a free port, which takes the place of PORT in its arguments; gives its address."""
    port = str(free_port())
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [program, *[word.replace("PORT", port) for word in arguments]], stdout=log, stderr=log, cwd=folder
        )
    try:
        until(lambda: is_open(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """The address of moto's server."""
    with serving(tmp_path_factory.mktemp("moto"), "-m", "moto.server", "-H", "127.0.0.1", "-p", "PORT") as address:
        yield address


@pytest.fixture(scope="module")
def fast_endpoint(tmp_path_factory):
    """The address of the benchmark's server, where thousands of requests would take moto's too long."""
    with serving(tmp_path_factory.mktemp("fast"), str(SERVER), "PORT", "0") as address:
        yield address


def client_of(address):
    return boto3.client("s3", "us-east-1", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b")


@pytest.fixture(scope="module")
def s3(endpoint):
    """A client of moto's server."""
    return client_of(endpoint)


def aws_of(address, **changes):
    """What etl.py makes of dl.cfg's [AWS]."""
    keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, "endpoint_url": address}
    return {**keys, **changes}


def storage_at(address, place, **changes):
    """The storage at a place of a server."""
    return S3Storage(place, aws_of(address, **changes))


def write_config(folder, address, extra=""):
    """A dl.cfg, in no one's case."""
    text = f"[aws]\nAws_Access_Key_Id = {KEY_ID}\naws_secret_access_key = {SECRET}\nENDPOINT_URL = {address}\n{extra}"
    (folder / "dl.cfg").write_text(text)


def put(s3, bucket, objects):
    """A bucket with {key: bytes}."""
    s3.create_bucket(Bucket=bucket)
    for key, content in objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=content)


def contents(s3, bucket, prefix=""):
    """{key: bytes} of a bucket."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def downloaded(s3, bucket, prefix, folder):
    """What lies below a prefix, as local files, for DuckDB."""
    for key, content in contents(s3, bucket, prefix).items():
        path = folder / key[len(prefix) :]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


# ---- A server that says what it is told ------------------------------------------------------------------


class Scripted(ThreadingHTTPServer):
    """Answers each request by answer(method, path, query, headers) -> (status, body); keeps what it was asked."""

    daemon_threads = True

    def __init__(self, answer):
        self.answer, self.requests = answer, []
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def reply(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        self.server.requests.append((self.command, unquote(url.path), query, dict(self.headers)))
        status, body, *lacking = self.server.answer(self.command, unquote(url.path), query)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + sum(lacking)))
        if status == 301:
            self.send_header("x-amz-bucket-region", "eu-west-1")  # as S3 does; boto3 tries that region then
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = bool(lacking)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = reply

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted():
    """Start a server with an answer."""
    servers = []

    def start(answer):
        servers.append(Scripted(answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def error_xml(code, message, more=""):
    """An error as AWS words it."""
    xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}'
    return f"{xml}<RequestId>4442587FB7D0A2F9</RequestId><HostId>x</HostId></Error>".encode()


def listing_xml(objects):
    """The answer to a list: {key: size}."""
    entries = "".join(f"<Contents><Key>{key}</Key><Size>{size}</Size></Contents>" for key, size in objects.items())
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


DENIED = error_xml("AccessDenied", "Access Denied")
