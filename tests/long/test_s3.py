"""Odd keys, a failed run with a secret at hand, and a machine without a network."""

import json
import re

import dirty
import oracle
import pytest
from dirty import event, song, write_input
from s3 import SECRET, TOKEN, client_of, contents, downloaded, put, write_config
from tables import COLUMNS, assert_tables, environment, listing, run_etl
from test_s3 import OTHERS, sample  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")


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


def test_a_failed_run_publishes_nothing_and_keeps_what_was_staged(failed, s3):
    folder, process, before = failed
    assert (process.returncode, process.stdout) == (1, "")
    kept = re.search(r"see (\S+/_rejected/logs)", process.stderr.splitlines()[-1]).group(1)
    assert json.loads(next(path for path in (folder / kept).iterdir() if path.suffix == ".json").read_text())
    assert contents(s3, "shared") == before


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
