"""A million objects, and servers of S3 that a package manager installs."""

import bisect
import os
import shutil
import string
import subprocess

import pytest
from s3 import serving, storage_at
from tables import ROOT
from test_storage import cycle

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")


def test_a_million_objects_take_little_more_than_a_thousand_requests(scripted):
    """A server that makes up 26 x 26 x 26 folders of 57; what it gives is as many pages as S3 would."""
    letters = string.ascii_uppercase
    folders = [f"in/song_data/{a}/{b}/{c}/" for a in letters for b in letters for c in letters]
    keys = [f"{folder}{number:02}" for folder in folders for number in range(57)]

    def answer(method, path, query):
        if method == "HEAD":
            return 200, b""
        prefix, delimiter, token = (query.get(name, "") for name in ("prefix", "delimiter", "continuation-token"))
        if delimiter:
            inner = sorted({key[: key.index("/", len(prefix)) + 1] for key in keys if key.startswith(prefix)})
            entries = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in inner)
            return 200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()
        at = bisect.bisect_right(keys, token) if token else bisect.bisect_left(keys, prefix)
        page = [key for key in keys[at : at + 1000] if key.startswith(prefix)]
        more = at + 1000 < len(keys) and keys[at + 1000].startswith(prefix)
        entries = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in page)
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        about = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        return 200, f"<ListBucketResult>{about}{entries}</ListBucketResult>".encode()

    server = scripted(answer)
    assert len(storage_at(server.address, "s3://music/in").list()) == len(keys)
    assert len(server.requests) < 1200


SERVERS = ROOT / "tests/.servers"


def installed(program, *command, **changes):
    """The path of a program in tests/.servers, installed there by a package manager the first time."""
    path = SERVERS / program
    if not path.exists():
        if not shutil.which(command[0]):
            pytest.skip(f"{command[0]} is not on this machine")
        SERVERS.mkdir(exist_ok=True)
        environment = {**os.environ, **{name: str(SERVERS / value) for name, value in changes.items()}}
        subprocess.run(command, cwd=SERVERS, env=environment, check=True, capture_output=True)
    return str(path)


def test_the_cycle_on_s3rver(tmp_path):
    server = installed("node_modules/s3rver/bin/s3rver.js", "npm", "install", "--prefix", ".", "s3rver@3.7.1")
    arguments = ("-d", str(tmp_path / "buckets"), "-a", "127.0.0.1", "-p", "PORT", "--no-vhost-buckets")
    with serving(tmp_path, server, *arguments, program="node") as address:
        cycle(address, "whole-cycle", tmp_path / "from", aws_access_key_id="S3RVER", aws_secret_access_key="S3RVER")


def test_the_cycle_on_gofakes3(tmp_path):
    package = "github.com/johannesboyne/gofakes3/cmd/gofakes3@v1.2.0"
    server = installed("gofakes3", "go", "install", package, GOBIN=".")
    with serving(tmp_path, "-backend", "memory", "-host", "127.0.0.1:PORT", program=server) as address:
        cycle(address, "whole-cycle", tmp_path / "from")
