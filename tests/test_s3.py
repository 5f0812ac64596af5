"""S3: etl.py against moto's server in a process of its own; what moto can't say is said by a small server of the tests.

A whole run takes some seconds, so the tests share three of them: the sample from zips into a bucket; odd keys and a log
file that is large enough for Hadoop's S3A onto the same tables; one that fails with a secret at hand.
"""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
import dirty
import oracle
import pytest
from dirty import event, song, write_input
from tables import COLUMNS, ROOT, assert_tables, environment, listing, run_etl

import etl

KEY_ID, SECRET, TOKEN = "AKIDEXAMPLEEXAMPLE11", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", "FwoGZXIvYXdzEXAMPLETOKEN"


@pytest.fixture(autouse=True)
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


@contextlib.contextmanager
def serving(folder, *command):
    """Run a server on a free port, which takes the place of PORT in its command; gives its address."""
    port = str(free_port())
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, *[port if word == "PORT" else word for word in command]], stdout=log, stderr=log
        )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}").close()
                break
            time.sleep(0.1)
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
    with serving(tmp_path_factory.mktemp("fast"), str(ROOT / "tests/bench/s3_server.py"), "PORT", "0") as address:
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


USABLE = listing_xml({"in/song_data/a.json": 10, "in/log_data/a.json": 10})
DENIED = error_xml("AccessDenied", "Access Denied")


# ---- Before Spark starts ---------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Call main with an S3 input and output: exit status 2, one line, nothing written here, no secret shown."""
    monkeypatch.setattr(etl, "spark_session", lambda *_, **__: pytest.fail("Spark is started"))

    def call(address, source="s3://music/in", output="s3://lake/out", extra=""):
        write_config(tmp_path, address, extra)
        before = listing(tmp_path)
        status = etl.main(["--input", source, "--output", output])
        stdout, stderr = capsys.readouterr()
        line = stderr.splitlines()[-1]
        assert (status, stdout) == (2, ""), stderr
        assert line.startswith("etl.py: ")
        assert len(line) < 500
        assert "Traceback" not in stderr
        assert SECRET not in stderr
        assert TOKEN not in stderr
        assert listing(tmp_path) == before
        return line

    return call


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
def test_what_s3_says_against_the_input_is_one_line(refused, scripted, status, code, message, said):
    server = scripted(lambda *_: (status, error_xml(code, message)))
    line = refused(server.address, extra=f"AWS_SESSION_TOKEN = {TOKEN}\n")
    assert "s3://music/in" in line
    assert code in line
    assert said in line


def test_an_endpoint_that_does_not_answer_is_named(refused):
    start = time.monotonic()
    line = refused(f"http://127.0.0.1:{free_port()}")
    assert "ENDPOINT_URL" in line
    assert time.monotonic() - start < 30  # not ten tries of 20 seconds


@pytest.mark.parametrize(("method", "permission"), [("PUT", "s3:PutObject"), ("DELETE", "s3:DeleteObject")])
def test_an_output_that_cannot_be_written_is_refused(refused, scripted, method, permission):
    def answer(asked, path, query):
        if asked == "GET":
            return 200, USABLE if path.startswith("/music") else listing_xml({})
        return (403, DENIED) if asked == method else (200, b"")

    server = scripted(answer)
    line = refused(server.address)
    assert "s3://lake/out" in line
    assert permission in line
    written = [path for asked, path, *_ in server.requests if asked in ("PUT", "DELETE")]
    assert all(path.startswith("/lake/out/_staging/") for path in written)


def test_a_missing_bucket_is_refused(refused, s3, endpoint):
    assert "s3://music/in: NoSuchBucket" in refused(endpoint)
    put(s3, "only-input", {"in/song_data/a.json": b"{}", "in/log_data/a.json": b"{}"})
    assert "s3://nowhere-else: NoSuchBucket" in refused(endpoint, "s3://only-input/in", "s3://nowhere-else")


def test_an_empty_prefix_is_refused(refused, s3, endpoint):
    put(s3, "nothing-here", {"inside/song_data/a.json": b"{}", "in/_song_data/song_data/b.json": b"{}"})
    assert "no song JSON in s3://nothing-here/in:" in refused(endpoint, "s3://nothing-here/in")


@pytest.mark.parametrize("key", ["users/photos.txt", "users/2018/x.parquet", "time/city=x/y.parquet"])
def test_an_output_with_a_foreign_object_in_a_tables_place_is_refused(refused, s3, endpoint, key):
    put(s3, "foreign", {"in/song_data/a.json": b"{}", "in/log_data/a.json": b"{}", f"out/{key}": b"precious"})
    assert f"s3://foreign/out/{key}" in refused(endpoint, "s3://foreign/in", "s3://foreign/out")
    assert contents(s3, "foreign", "out/") == {f"out/{key}": b"precious"}
    s3.delete_object(Bucket="foreign", Key=f"out/{key}")


@pytest.mark.parametrize(("source", "output"), [("s3://b/in", "s3a://b/in/"), ("s3://b/in", "s3://b/in/lake")])
def test_an_output_and_an_input_in_each_other_are_refused(refused, scripted, source, output):
    server = scripted(lambda method, *_: (200, USABLE if method == "GET" else b""))
    assert "must not lie in each other" in refused(server.address, source, output)


@pytest.mark.parametrize("place", ["s3://", "s3:///in", "s3n://b/in", "gs://b/in"])
def test_what_is_no_place_on_s3_is_refused(refused, place):
    assert place in refused("http://127.0.0.1:1", source=place)


def test_half_a_pair_of_keys_is_refused(tmp_path, capsys):
    (tmp_path / "dl.cfg").write_text(f"[AWS]\nAWS_ACCESS_KEY_ID =\nAWS_SECRET_ACCESS_KEY = {SECRET}\n")
    assert etl.main(["--input", "s3://music"]) == 2
    said = capsys.readouterr().err
    assert "AWS_ACCESS_KEY_ID" in said
    assert SECRET not in said


def test_without_boto3_one_line_says_how_to_install_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "pip install boto3" in refused("http://127.0.0.1:1")


# ---- Credentials and regions -----------------------------------------------------------------------------


def signature(server, aws):
    """The headers Authorization and X-Amz-Security-Token of a call with what s3_access finds."""
    found, client = etl.s3_access(aws, "s3://music/in")
    etl.list_objects(client, "s3://music/in")
    headers = {name.lower(): value for name, value in server.requests[-1][3].items()}
    return headers.get("authorization"), headers.get("x-amz-security-token"), found


@pytest.fixture
def listening(scripted):
    return scripted(lambda method, *_: (200, USABLE if method == "GET" else b""))


def test_the_keys_of_the_configuration_sign(listening, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "other")
    authorization, token, _ = signature(listening, aws_of(listening.address))
    assert f"Credential={KEY_ID}/" in authorization
    assert token is None


def test_a_session_token_of_the_configuration_is_sent(listening):
    assert signature(listening, aws_of(listening.address, aws_session_token=TOKEN))[1] == TOKEN


def test_without_keys_a_profile_serves(listening, monkeypatch, tmp_path):
    (tmp_path / "profiles").write_text(f"[sparkify]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "profiles"))
    monkeypatch.setenv("AWS_PROFILE", "sparkify")
    authorization, _, found = signature(listening, {"endpoint_url": listening.address})
    assert f"Credential={KEY_ID}/" in authorization
    assert KEY_ID not in found.values()


def test_a_missing_profile_is_one_line(refused, monkeypatch, listening, tmp_path):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in refused(listening.address)


def test_without_any_credentials_requests_are_not_signed(listening):
    authorization, _, found = signature(listening, {"endpoint_url": listening.address})
    assert authorization is None
    listening.answer = lambda *_: (200, b"text")
    assert list(etl.fetch([etl.File("s3://music/in/a.json", None, 4)], True, found)) == [
        ("s3://music/in/a.json", "text")
    ]
    *_, query, headers = listening.requests[-1]
    assert not query
    assert "Authorization" not in headers


@pytest.mark.parametrize(("configured", "region"), [({}, "eu-west-1"), ({"region": "us-west-2"}, "us-west-2")])
def test_the_region_is_the_configured_one_else_the_buckets(s3, endpoint, monkeypatch, configured, region):
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket="ireland", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET}
    found, client = etl.s3_access({**keys, **configured}, "s3://ireland")
    assert (found["region"], client.meta.region_name) == (region, region)
    assert found["endpoint_url"] == endpoint


# ---- Reading ---------------------------------------------------------------------------------------------


def test_keys_with_anything_in_them_are_listed_over_pages_and_fetched(fast_endpoint):
    s3, endpoint = client_of(fast_endpoint), fast_endpoint
    folders = (
        "in/song_data",
        "in/deep/song_data/A=1/B %20+ é",
        "in/_x/song_data",
        "in/song_data/.y",
        "in/my_song_data",
    )
    objects = {f"{folder}/é &=+%41 {number}.json": b"{}" for folder in folders for number in range(10)}
    objects.update({f"in/song_data/{number:04}.json": str(number).encode() for number in range(2300)})
    put(s3, "odd", {**objects, "in/song_data/x.txt": b"", "input/song_data/z.json": b""})
    aws, client = etl.s3_access(aws_of(endpoint), "s3://odd/in")
    found = etl.list_objects(client, "s3://odd/in")
    assert len(found) == 2351
    files = etl.find_files("s3://odd/in", "song", client, found)
    expected = {f"s3://odd/{key}": content for key, content in objects.items() if key.startswith(folders[:2])}
    expected = {path: content for path, content in expected.items() if "/.y/" not in path}
    assert {file.path: file.size for file in files} == {path: len(content) for path, content in expected.items()}
    some = files[:40] + files[-40:]
    assert dict(etl.fetch(some, True, aws)) == {file.path: expected[file.path].decode() for file in some}


def test_of_very_many_objects_the_tasks_list_the_songs(fast_endpoint, monkeypatch):
    """As etl.py does with more than LISTED: the same files as by one list, none of them twice."""
    folders = [f"in/song_data/{a}/{b}" for a in "AB/" for b in "XYZ"] + ["in/deep/song_data/A=1/é &=+%41"]
    hidden = ["in/song_data/_A/X", "in/song_data/A/.y", "in/_x/song_data", "in/my_song_data"]
    keys = [f"{folder}/{number}.json" for folder in [*folders, *hidden] for number in range(9)]
    keys += [f"in/flat/song_data/{number:04}.json" for number in range(1100)]  # too many to be divided
    keys += [f"in/log_data/2018/{month}/é.json" for month in range(11, 13)]
    keys += ["in/song_data/a.json", "in/song_data/A/b.json", "in/song_data/A/X/c.txt", "in/log-data.txt"]
    put(client_of(fast_endpoint), "many", {key: key.encode() for key in keys})
    monkeypatch.setattr(etl, "LISTED", 50)
    for place in ("s3://many/in", "s3://many"):
        aws, client = etl.s3_access(aws_of(fast_endpoint), place)
        listed = etl.list_objects(client, place)
        objects, below = etl.list_input(client, place)
        assert len(objects) < 50 < len(listed)
        for kind, roots in (("song", below), ("log", [])):
            found = etl.find_files(place, kind, client, objects, roots)
            assert etl.is_few(found) == (kind == "log")
            files = list(etl.in_folders(client, found))
            assert len(files) == len(set(files))
            assert sorted(files) == sorted(etl.find_files(place, kind, client, listed))
    folder = etl.File("s3://many/in/song_data/B/X/", None, 0)
    found = {f"{folder.path}{number}.json": f"in/song_data/B/X/{number}.json" for number in range(9)}
    assert dict(etl.fetch([folder], True, aws)) == found


@pytest.mark.long
def test_songs_that_the_tasks_list_give_the_same_tables(fast_endpoint, run_here, monkeypatch, tmp_path):
    songs = [song(song_id=f"S{number}", artist_id=f"A{number}", title=f"T{number}") for number in range(40)]
    plays = [event(song=f"T{number}", itemInSession=number) for number in range(40)]
    source = write_input(tmp_path / "in", songs, plays)
    objects = {"in/log_data/" + path.name: path.read_bytes() for path in (source / "log_data").rglob("*.json")}
    for number, path in enumerate(sorted((source / "song_data").rglob("*.json"))):
        objects[f"in/song_data/{number % 20}/{number}.json"] = path.read_bytes()
    put(client_of(fast_endpoint), "dealt", objects)
    write_config(tmp_path, fast_endpoint)
    monkeypatch.setattr(etl, "LISTED", 10)
    status, said = run_here("--input", "s3://dealt/in", "--output", tmp_path / "lake", "--report", "report.json")
    assert status == 0, said
    assert_tables(tmp_path / "lake", oracle.five_tables(source))
    assert json.loads((tmp_path / "report.json").read_text())["input"]["songs"]["files"] == 40


def test_an_object_that_is_gone_after_the_listing_is_named(s3, endpoint):
    put(s3, "changing", {"in/song_data/a.json": b"{}"})
    files = [etl.File(f"s3://changing/in/song_data/{name}.json", None, 2) for name in "ab"]
    with pytest.raises(etl.UsageError, match="«s3://changing/in/song_data/b.json: NoSuchKey.*gone.*»"):
        list(etl.fetch(files, True, aws_of(endpoint)))


class Total:
    """What fetch needs of an accumulator."""

    value = 0

    def add(self, number):
        self.value += number


def fetched(server, number=1):
    files = [etl.File(f"s3://music/{at}.json", None, 8) for at in range(number)]
    slowed = Total()
    return dict(etl.fetch(files, True, aws_of(server.address), slowed)), slowed.value


def test_requests_that_s3_refuses_for_a_moment_are_repeated_and_counted(scripted):
    refusals = iter([True] * 6)
    slow = error_xml("SlowDown", "Please reduce your request rate.")
    server = scripted(lambda *_: (503, slow) if next(refusals, False) else (200, b"the text"))
    texts, slowed = fetched(server, 20)
    assert texts == {f"s3://music/{at}.json": "the text" for at in range(20)}
    assert slowed == len(server.requests) - 20 == 6


def test_a_body_that_breaks_off_is_read_again(scripted):
    cut = iter([True] * 3)
    server = scripted(lambda *_: (200, b"the", 5) if next(cut, False) else (200, b"the text"))
    assert fetched(server) == ({"s3://music/0.json": "the text"}, 0)
    assert len(server.requests) == 4


def test_a_body_that_always_breaks_off_is_an_error_that_names_it(scripted):
    server = scripted(lambda *_: (200, b"the", 5))
    with pytest.raises(etl.UsageError, match="«s3://music/0.json: .*»"):
        fetched(server)


def test_a_zip_is_read_once_by_a_few_requests(s3, endpoint, scripted):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in reversed(range(500)):
            archive.writestr(f"log_data/{number:03}.json", f"line {number}\n".encode() * 2000)
    zipped = content.getvalue()

    def answer(method, path, query):
        first, last = map(int, re.findall(r"\d+", server.requests[-1][3].get("Range", f"0-{len(zipped) - 1}"))[:2])
        return (206, zipped[first : last + 1]) if method == "GET" else (200, zipped)

    server = scripted(answer)
    client = etl.aws_client(aws_of(server.address), "s3")
    files = etl.find_files("s3://music", "log", client, {"log-data.zip": len(zipped)})
    assert [file.member for file in files] == [f"log_data/{number:03}.json" for number in range(500)]
    server.requests.clear()
    texts = dict(etl.fetch(files, False, aws_of(server.address)))
    assert texts == {f"s3://music/log-data.zip!log_data/{n:03}.json": f"line {n}\n" * 2000 for n in range(500)}
    assert len(zipped) > 8 << 20
    assert len(server.requests) < 10


def test_where_executors_lack_boto3_sparks_reader_gives_the_same(spark, tmp_path):
    texts = {"a [1].json": '{"a":\n 1}\r\n', "b.json": "", "c.json": "[]"}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
    files = [etl.File(str(tmp_path / name), None, len(text)) for name, text in texts.items()]
    rows = etl.read_by_spark(spark, files, whole=True).collect()
    assert sorted(row.raw for row in rows) == sorted(texts.values())
    lines = etl.read_by_spark(spark, files, whole=False).collect()
    assert sorted(row.raw for row in lines) == [" 1}\r", "[]", '{"a":']
    with pytest.raises(etl.UsageError, match="boto3"):
        etl.read_small(spark, [etl.File("s3://music/log-data.zip", "a.json", 4)], aws=None)
    assert etl.executors_have_boto3(spark)


# ---- Whole runs ------------------------------------------------------------------------------------------


def spark_defaults(folder):
    """The environment in which Spark keeps an event log in folder/events."""
    (folder / "events").mkdir(parents=True)
    (folder / "conf").mkdir()
    settings = f"spark.eventLog.enabled true\nspark.eventLog.dir file://{folder}/events\n"
    (folder / "conf/spark-defaults.conf").write_text(settings)
    (folder / "tmp").mkdir()
    return environment(
        SPARK_CONF_DIR=str(folder / "conf"), TMPDIR=str(folder / "tmp"), AWS_EC2_METADATA_DISABLED="true"
    )


OTHERS = {"README": b"of somebody", "users.txt": b"x", "users-backup/part-0.parquet": b"y", "_staging/theirs/z": b"z"}


@pytest.fixture(scope="module")
def sample(s3, endpoint, tmp_path_factory):
    """The sample, from zips, into a bucket that holds other things: (process, the report)."""
    folder = tmp_path_factory.mktemp("sample")
    put(s3, "sample", {f"raw/{path.name}": path.read_bytes() for path in (ROOT / "data").glob("*.zip")})
    put(s3, "shared", OTHERS)
    write_config(folder, endpoint)
    process = run_etl(
        *("--input", "s3a://sample/raw/", "--bucket", "shared", "--report", "s3://sample/report.json"), cwd=folder
    )
    assert process.returncode == 0, process.stderr
    return process, json.loads(contents(s3, "sample", "report.json")["report.json"])


@pytest.mark.long
def test_without_a_network_one_line_says_which_jars_are_missing(fast_endpoint, tmp_path):
    put(client_of(fast_endpoint), "large", {"song_data/a.json": b"{}", "log_data/a.json": bytes(etl.SMALL_FILE + 1)})
    write_config(tmp_path, fast_endpoint)
    settings = spark_defaults(tmp_path)
    resolver = (
        '<resolvers><filesystem name="none"><artifact pattern="/nowhere/[artifact].[ext]"/></filesystem></resolvers>'
    )
    caches = f'<settings defaultResolver="none"/><caches defaultCacheDir="{tmp_path}/cache"/>'
    (tmp_path / "ivy.xml").write_text(f"<ivysettings>{caches}{resolver}</ivysettings>")
    ivy = f"spark.jars.ivySettings {tmp_path}/ivy.xml\nspark.jars.ivy {tmp_path}/ivy\n"
    (tmp_path / "conf/spark-defaults.conf").write_text(ivy)
    process = run_etl("--input", "s3://large", "--output", "s3://large-lake", cwd=tmp_path, env=settings)
    assert (process.returncode, process.stdout) == (2, "")
    assert re.search(
        r"^etl.py: can't download org.apache.hadoop:hadoop-aws:\S+, .*jars$", process.stderr.splitlines()[-1]
    )
    assert contents(client_of(fast_endpoint), "large-lake") == {}


def ours(key):
    return key.split("/")[0] in COLUMNS and key not in OTHERS


def test_the_sample_from_and_to_s3_gives_the_oracles_tables(sample, s3, tmp_path):
    process, report = sample
    assert_tables(downloaded(s3, "shared", "", tmp_path / "lake"), oracle.five_tables(ROOT / "data"))
    found = {key: len(content) for key, content in contents(s3, "shared").items() if ours(key)}
    assert {table["path"] for table in report["tables"].values()} == {f"s3://shared/{name}" for name in COLUMNS}
    assert sum(table["files"] for table in report["tables"].values()) == len(found)
    assert sum(table["bytes"] for table in report["tables"].values()) == sum(found.values())
    assert process.stdout.splitlines()[-2].split()[-1] == "s3://shared/time"


def test_nothing_of_others_is_touched_and_nothing_else_is_left(sample, s3):
    assert {key: content for key, content in contents(s3, "shared").items() if not ours(key)} == OTHERS


@pytest.fixture(scope="module")
def odd(sample, s3, endpoint, tmp_path_factory):
    """Odd keys and a log file of 5 MB, onto the sample's tables: (folder, local copy of the input, process)."""
    folder = tmp_path_factory.mktemp("odd")
    source = folder / "in"
    songs = [song(song_id=f"S{number}", title=f"Title {number}") for number in range(30)]
    write_input(source, songs, [event(itemInSession=number, song=f"Title {number % 40}") for number in range(10_000)])
    (source / "log_data/more é=1").mkdir(parents=True)
    lines = [dirty.dump(event(itemInSession=number, sessionId=7)) for number in range(50)]
    (source / "log_data/more é=1/a & b+c %41.json").write_bytes(b"\r\n".join([*lines, b"{"]))
    assert max(path.stat().st_size for path in source.rglob("*.json")) > etl.SMALL_FILE
    files = {f"in/{path.relative_to(source)}": path.read_bytes() for path in source.rglob("*") if path.is_file()}
    put(s3, "odd-keys", files)
    write_config(folder, endpoint, "REGION = us-east-1\n[DATA]\nINPUT = s3://odd-keys/in\nOUTPUT = s3://shared\n")
    environment = spark_defaults(folder)
    process = run_etl(cwd=folder, env=environment)
    assert process.returncode == 0, process.stderr
    return folder, source, process


def test_odd_keys_and_a_large_log_file_replace_the_tables(odd, s3, tmp_path):
    _, source, _ = odd
    lake = downloaded(s3, "shared", "", tmp_path / "lake")
    assert_tables(lake, oracle.five_tables(source))
    (rejected,) = [json.loads(path.read_text()) for path in (lake / "_rejected").rglob("*.json")]
    assert rejected["source"] == "s3://odd-keys/in/log_data/more é=1/a & b+c %41.json"
    assert {key: content for key, content in contents(s3, "shared").items() if key in OTHERS} == OTHERS
    assert {key.split("/")[0] for key in contents(s3, "shared")} == {key.split("/")[0] for key in OTHERS} | {
        *COLUMNS,
        "_rejected",
    }


def test_a_query_of_tables_on_s3_is_answered(odd):
    process = run_etl("--query", "SELECT count(*) AS plays FROM songplays", "--csv", cwd=odd[0])
    assert (process.returncode, process.stdout) == (0, "plays\n10050\n"), process.stderr


@pytest.fixture(scope="module")
def failed(odd, s3, endpoint):
    """The same, with a token, failed for its rejected record: (folder, process, the output before)."""
    folder, _, _ = odd
    write_config(folder, endpoint, f"AWS_SESSION_TOKEN = {TOKEN}\n")
    before = contents(s3, "shared")
    arguments = ("--input", "s3://odd-keys/in", "--bucket", "shared", "--max-rejected", "0")
    settings = environment(SPARK_CONF_DIR=str(folder / "conf"), TMPDIR=str(folder / "tmp"))
    return folder, run_etl(*arguments, cwd=folder, env=settings), before


@pytest.mark.long
def test_a_failed_run_publishes_nothing_and_keeps_what_was_staged(failed, s3):
    folder, process, before = failed
    assert (process.returncode, process.stdout) == (1, "")
    kept = re.search(r"see (\S+/_rejected/logs)", process.stderr.splitlines()[-1]).group(1)
    assert json.loads(next(path for path in (folder / kept).iterdir() if path.suffix == ".json").read_text())
    assert contents(s3, "shared") == before


@pytest.mark.long
def test_no_secret_is_in_anything_that_runs_leave(odd, failed):
    folder, _, process = odd
    said = [text.encode() for each in (process, failed[1]) for text in (each.stdout, each.stderr)]
    left = {name: content for name, content in listing(folder).items() if content is not None and name != "dl.cfg"}
    assert len([name for name in left if name.startswith("events/")]) >= 2
    assert [name for name in left if name.endswith("/spark.log")]
    assert any(b"fs.s3a" in content or b"hadoop" in content for content in left.values())
    for secret in (SECRET, TOKEN):
        assert [name for name, content in left.items() if secret.encode() in content] == []
        assert [text for text in said if secret.encode() in text] == []


# ---- Publishing ------------------------------------------------------------------------------------------


@pytest.fixture
def staged(tmp_path):
    """A local staging of five tables and 10 partitions."""
    names = [f"{name}/part-0-new.parquet" for name in COLUMNS if name != "songs"]
    for name in [*names, *[f"songs/year={year}/part-0-new é.parquet" for year in range(10)]]:
        path = tmp_path / "staging" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        (path.parent / f".{path.name}.crc").write_text("no data")
    return tmp_path / "staging"


RUN_ID = "20260101T000000Z-00000000"


class Killed(Exception):
    """What stands for the end of the process."""


@pytest.mark.parametrize("calls", [1, 15, 16, 17, 23, 24, 25, 30, 39, 40, 41])
def test_a_publishing_that_stops_after_any_call_is_completed_by_the_next(fast_endpoint, staged, calls):
    s3, endpoint = client_of(fast_endpoint), fast_endpoint
    bucket = f"stopped-{calls}"
    put(s3, bucket, {"lake/users/part-0-old.parquet": b"", "lake/_rejected/logs/a.json": b"", "lake/other": b"other"})
    old = contents(s3, bucket)
    client = etl.aws_client(aws_of(endpoint), "s3")
    left = iter(range(calls))

    def count(**_):
        if next(left, None) is None:
            raise Killed

    client.meta.events.register("before-call.s3", count)
    with contextlib.suppress(Killed):
        output = etl.S3Output(f"s3://{bucket}/lake", client)
        output.upload(str(staged), RUN_ID)
        output.publish(RUN_ID)
    output = etl.S3Output(f"s3://{bucket}/lake", etl.aws_client(aws_of(endpoint), "s3"))
    recovered = output.recover()
    new = {f"lake/{path.relative_to(staged).as_posix()}": path.read_bytes() for path in staged.rglob("*.parquet")}
    after = {key: content for key, content in contents(s3, bucket).items() if "/_staging/" not in key}
    assert after == ({**new, "lake/other": b"other"} if calls > 15 else old)
    assert recovered == (RUN_ID if 15 < calls < 40 else None)
    assert output.recover() is None


def test_a_journal_whose_staging_is_gone_deletes_nothing(fast_endpoint):
    s3 = client_of(fast_endpoint)
    journal = json.dumps({"run_id": RUN_ID, "files": 14}).encode()
    put(s3, "gone", {"lake/users/part-0-old.parquet": b"old", "lake/_journal.json": journal})
    before = contents(s3, "gone")
    with pytest.raises(etl.JobError, match="0 of the 14 files"):
        etl.S3Output("s3://gone/lake", s3).recover()
    assert contents(s3, "gone") == before


def test_publishing_takes_few_requests_and_aborts_unfinished_uploads(s3, endpoint, staged):
    put(s3, "counted", {f"users/part-{number}.parquet": b"" for number in range(14)})
    for key in (f"_staging/{RUN_ID}/users/x.parquet", "theirs"):
        s3.create_multipart_upload(Bucket="counted", Key=key)
    client = etl.aws_client(aws_of(endpoint), "s3")
    calls = []
    client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    output = etl.S3Output("s3://counted", client)
    output.upload(str(staged), RUN_ID)
    assert output.publish(RUN_ID) == RUN_ID
    assert len(calls) < 4 * 14
    assert [upload["Key"] for upload in s3.list_multipart_uploads(Bucket="counted")["Uploads"]] == ["theirs"]
    assert set(contents(s3, "counted")) == {path.relative_to(staged).as_posix() for path in staged.rglob("*.parquet")}
