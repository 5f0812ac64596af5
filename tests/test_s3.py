"""S3 in whole runs, against moto's server; what storage.py does with S3, and what is said, has tests of its own.

A whole run takes some seconds, so the tests share three of them: the sample from zips into a bucket; odd keys
onto the same tables; one that fails with a secret at hand.
"""

import json
import re

import dirty
import oracle
import pytest
from dirty import event, song, write_input
from s3 import SECRET, TOKEN, client_of, contents, downloaded, error_xml, put, write_config
from tables import COLUMNS, ROOT, assert_tables, environment, listing, run_etl

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
    put(client_of(fast_endpoint), "large-lake", {"users/part-0.parquet": b"x"})
    write_config(tmp_path, fast_endpoint)
    settings = spark_defaults(tmp_path)
    resolver = (
        '<resolvers><filesystem name="none"><artifact pattern="/nowhere/[artifact].[ext]"/></filesystem></resolvers>'
    )
    caches = f'<settings defaultResolver="none"/><caches defaultCacheDir="{tmp_path}/cache"/>'
    (tmp_path / "ivy.xml").write_text(f"<ivysettings>{caches}{resolver}</ivysettings>")
    ivy = f"spark.jars.ivySettings {tmp_path}/ivy.xml\nspark.jars.ivy {tmp_path}/ivy\n"
    (tmp_path / "conf/spark-defaults.conf").write_text(ivy)
    process = run_etl("--query", "SELECT 1", "--output", "s3://large-lake", cwd=tmp_path, env=settings)
    assert (process.returncode, process.stdout) == (2, "")
    assert re.search(
        r"^etl.py: can't download org.apache.hadoop:hadoop-aws:\S+, .*jars$", process.stderr.splitlines()[-1]
    )


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


@pytest.fixture(scope="module")
def odd(sample, s3, endpoint, tmp_path_factory):
    """Odd keys, onto the sample's tables: (folder, local copy of the input, process)."""
    folder = tmp_path_factory.mktemp("odd")
    source = folder / "in"
    songs = [song(song_id=f"S{number}", title=f"Title {number}") for number in range(30)]
    write_input(source, songs, [event(itemInSession=number, song=f"Title {number % 40}") for number in range(1_000)])
    (source / "log_data/more é=1").mkdir(parents=True)
    lines = [dirty.dump(event(itemInSession=number, sessionId=7)) for number in range(50)]
    (source / "log_data/more é=1/a & b+c %41.json").write_bytes(b"\r\n".join([*lines, b"{"]))
    files = {f"in/{path.relative_to(source)}": path.read_bytes() for path in source.rglob("*") if path.is_file()}
    put(s3, "odd-keys", files)
    write_config(folder, endpoint, "REGION = us-east-1\n[DATA]\nINPUT = s3://odd-keys/in\nOUTPUT = s3://shared\n")
    environment = spark_defaults(folder)
    process = run_etl(cwd=folder, env=environment)
    assert process.returncode == 0, process.stderr
    return folder, source, process


@pytest.mark.long
def test_odd_keys_replace_the_tables(odd, s3, tmp_path):
    _, source, _ = odd
    lake = downloaded(s3, "shared", "", tmp_path / "lake")
    assert_tables(lake, oracle.five_tables(source))
    (rejected,) = [json.loads(path.read_text()) for path in (lake / "_rejected").rglob("*.json")]
    assert rejected["source"] == "s3://odd-keys/in/log_data/more é=1/a & b+c %41.json"
    assert {key: content for key, content in contents(s3, "shared").items() if key in OTHERS} == OTHERS
    assert {key.split("/")[0] for key in contents(s3, "shared")} == {key.split("/")[0] for key in OTHERS} | {
        *COLUMNS,
        "_rejected",
        "_published.json",
    }


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
