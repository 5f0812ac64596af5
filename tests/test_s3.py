"""S3 in whole runs, against moto's server; what storage.py does with S3, and what is said, has tests of its own.

A whole run takes some seconds, so the tests share one: the sample from zips into a bucket.
"""

import json

import oracle
import pytest
from s3 import SECRET, TOKEN, contents, downloaded, error_xml, put, write_config
from tables import COLUMNS, ROOT, assert_tables, listing, run_etl

import etl
from sparkify import session

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")

# ---- Before Spark starts ---------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Call main with an S3 input and output: exit status 2, one line, nothing written here, no secret shown."""
    monkeypatch.setattr(session, "spark_session", lambda *_, **__: pytest.fail("Spark is started"))

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


@pytest.mark.parametrize(
    ("code", "said"), [("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"), ("AccessDenied", "s3:ListBucket")]
)
def test_what_s3_says_against_the_input_is_one_line(refused, scripted, code, said):
    server = scripted(lambda *_: (403, error_xml(code, "no")))
    line = refused(server.address, extra=f"AWS_SESSION_TOKEN = {TOKEN}\n")
    assert line.startswith(f"etl.py: s3://music/in: {code}: no: ")
    assert said in line


def test_an_empty_prefix_is_refused(refused, s3, endpoint):
    put(s3, "nothing-here", {"inside/song_data/a.json": b"{}", "in/_song_data/song_data/b.json": b"{}"})
    assert "no song JSON in s3://nothing-here/in:" in refused(endpoint, "s3://nothing-here/in")


@pytest.mark.parametrize("place", ["s3://", "s3:///in", "s3n://b/in", "gs://b/in"])
def test_what_is_no_place_on_s3_is_refused(refused, place):
    assert place in refused("http://127.0.0.1:1", source=place)


def test_half_a_pair_of_keys_is_refused(tmp_path, capsys):
    (tmp_path / "dl.cfg").write_text(f"[AWS]\nAWS_ACCESS_KEY_ID =\nAWS_SECRET_ACCESS_KEY = {SECRET}\n")
    assert etl.main(["--input", "s3://music"]) == 2
    said = capsys.readouterr().err
    assert "AWS_ACCESS_KEY_ID" in said
    assert SECRET not in said


# ---- Whole runs ------------------------------------------------------------------------------------------


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
    others = {key: content for key, content in contents(s3, "shared").items() if not ours(key)}
    assert json.loads(others.pop("_published.json"))["rows"]["songplays"] == 6800
    assert others == OTHERS


def test_a_query_of_tables_on_s3_is_answered(sample, endpoint, tmp_path):
    write_config(tmp_path, endpoint)
    query = ("--query", "SELECT count(*) AS plays FROM songplays", "--csv", "--bucket", "shared")
    process = run_etl(*query, cwd=tmp_path)
    assert (process.returncode, process.stdout) == (0, "plays\n6800\n"), process.stderr
