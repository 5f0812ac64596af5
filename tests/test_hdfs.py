"""From and to HDFS: a real one, which the tests start."""

import json
import re
import shutil

import oracle
import pytest
from dirty import event, song, write_input
from hdfs import fetched, put
from py4j.protocol import Py4JError
from tables import COLUMNS, ETL, assert_tables, listing, run_etl
from test_faults import RUN_ID, kill_run, killed_at, versions, write_tables
from test_readme import WITH_THIS_PYTHON, command, run

import etl

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def source(tmp_path_factory, hdfs, spark):
    """A folder of JSON, a copy of which is in /in on HDFS: odd names, an empty file, a large log."""
    folder = tmp_path_factory.mktemp("source") / "in"
    songs = [song(song_id=f"S{number}", title=f"Title {number}", year=number % 3) for number in range(300)]
    events = [event(itemInSession=number, song=f"Title {number % 400}") for number in range(15_000)]
    write_input(folder, [*songs, ""], [*events, events[0], event(page="Home")])
    (folder / "log_data/more é=1 [a]").mkdir()
    (folder / "log_data/more é=1 [a]/a & b.json").write_text(json.dumps(event(sessionId=7)))
    (folder / "log_data/_hidden.json").write_text("{")
    sizes = [path.stat().st_size for path in (folder / "log_data").rglob("*.json")]
    assert min(sizes) < etl.SMALL_FILE < max(sizes)
    put(spark, folder, f"{hdfs}/in")
    return folder


def test_from_and_to_hdfs_gives_the_oracles_tables(hdfs, spark, source, tmp_path):
    """As the README says; then a run that is killed while it publishes, --recover, and a query."""
    shutil.copy2(ETL, tmp_path)
    line = (
        command("spark-submit etl.py --input hdfs://").replace("/data/sparkify", "/in").replace("/data/lake", "/lake")
    )
    line = line.replace("hdfs://", hdfs) + " --max-rejected 0.1 --report report.json"
    process = run(line, tmp_path, **WITH_THIS_PYTHON)
    expected = oracle.five_tables(source)
    assert_tables(fetched(spark, f"{hdfs}/lake", tmp_path / "first"), expected)
    assert process.stdout.endswith(etl.summary(json.loads((tmp_path / "report.json").read_text())) + "\n")
    names = {name.split("/")[0] for name in listing(tmp_path / "first")}
    assert names == {*COLUMNS, "_rejected"}
    arguments = ("--input", f"{hdfs}/in", "--output", f"{hdfs}/lake", "--max-rejected", "0.1")
    kill_run("users away", *arguments, cwd=tmp_path)
    process = run_etl("--recover", "--output", f"{hdfs}/lake", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "completed the publishing of run" in process.stdout
    assert_tables(fetched(spark, f"{hdfs}/lake", tmp_path / "second"), expected)
    assert {name.split("/")[0] for name in listing(tmp_path / "second")} == names
    process = run_etl("--query", "SELECT count(*) FROM songplays", "--csv", "--output", f"{hdfs}/lake", cwd=tmp_path)
    assert (process.returncode, process.stdout.split()[-1]) == (0, str(len(expected["songplays"]))), process.stderr


@pytest.mark.parametrize("point", ["before the journal", "songs away", "time there", "the journal removed"])
def test_killed_between_two_moves_the_next_run_has_all_five(hdfs, spark, tmp_path, point):
    output = f"{hdfs}/{point.replace(' ', '-')}"
    write_tables(tmp_path / "old", "old")
    write_tables(tmp_path / "old/_staging" / RUN_ID, "new")
    put(spark, tmp_path / "old", output)
    assert killed_at(point, lambda: etl.HdfsOutput(output, spark).publish(RUN_ID))
    found = versions(fetched(spark, output, tmp_path / "between"))
    assert list(found.values()).count(None) <= 1
    etl.HdfsOutput(output, spark).recover()
    expected = "old" if point == "before the journal" else "new"
    assert versions(fetched(spark, output, tmp_path / "after")) == dict.fromkeys(COLUMNS, expected)


def test_a_folder_in_which_another_run_began_is_not_deleted(hdfs, spark, tmp_path):
    write_tables(tmp_path / "old", "old")
    put(spark, tmp_path / "old", f"{hdfs}/begun")
    with pytest.raises(Py4JError, match="is non empty"):
        etl.HdfsOutput(f"{hdfs}/begun", spark).delete(f"{hdfs}/begun")
    assert versions(fetched(spark, f"{hdfs}/begun", tmp_path / "after")) == dict.fromkeys(COLUMNS, "old")


def test_what_is_wrong_on_hdfs_is_one_line(hdfs, spark, source, run_here, tmp_path):
    write_input(tmp_path / "zips", [song()], [event()])
    shutil.make_archive(str(tmp_path / "zips/song_data"), "zip", tmp_path / "zips/song_data")
    put(spark, tmp_path / "zips", f"{hdfs}/zips")
    (tmp_path / "foreign/users").mkdir(parents=True)
    (tmp_path / "foreign/users/mine.csv").write_text("")
    put(spark, tmp_path / "foreign", f"{hdfs}/foreign")
    cases = {
        (f"{hdfs}/nowhere", f"{hdfs}/out"): "there is no folder",
        (f"{hdfs}/foreign", f"{hdfs}/out"): "no song JSON in",
        (f"{hdfs}/zips", f"{hdfs}/out"): "unpack it",
        (f"{hdfs}/in", f"{hdfs}/in/out"): "must not lie in each other",
        (f"{hdfs}/in", f"{hdfs}/foreign"): "users/mine.csv is not of the table users",
        ("hdfs://127.0.0.1:1/in", "out"): "can't read hdfs://127.0.0.1:1/in: .*ConnectException",
        (source, "hdfs://127.0.0.1:1/out"): "can't write to hdfs://127.0.0.1:1/out: .*ConnectException",
        (f"{hdfs}/in", "hdfs://"): "only s3://BUCKET/…, hdfs://… and local folders",
    }
    spark._jsc.hadoopConfiguration().set("ipc.client.connect.max.retries", "1")
    for (place, output), said in cases.items():
        status, line = run_here("--input", place, "--output", output)
        assert status == 2 and re.search(said, line), (place, output, line)
    status, line = run_here("--report", f"{hdfs}/report.json")
    assert (status, line) == (2, f"etl.py: --report {hdfs}/report.json: name a local file, or one on S3")
    files, path = etl._file_system(spark, hdfs)
    assert not files.exists(path(f"{hdfs}/out"))
