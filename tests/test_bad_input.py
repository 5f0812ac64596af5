"""Bad arguments, bad configuration and bad input: one line says what is wrong, and nothing is written.

What is found before Spark starts is tested in this process, where starting Spark would fail the test.
"""

import contextlib
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import dirty
import pytest
from dirty import event, song, write_input
from tables import COLUMNS, ETL, ROOT, assert_tables, environment, listing, run_etl

import etl

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


def last_line(stderr):
    """The one line of an error: the last of standard error, and no traceback anywhere."""
    assert "Traceback" not in stderr, stderr
    assert not re.search(r"^\s+at ", stderr, re.MULTILINE), stderr
    assert stderr.endswith("\n")
    line = stderr[:-1].rsplit("\n", 1)[-1]
    assert line.startswith("etl.py: "), stderr
    assert len(line) < 500
    return line


# ---- Before Spark starts ---------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, without AWS settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def refused(here, monkeypatch, capsys):
    """Call main with bad arguments: exit status 2, one line, nothing on standard output, nothing written."""
    monkeypatch.setattr(etl, "spark_session", lambda *_, **__: pytest.fail("Spark is started"))

    def call(*arguments):
        before = listing(here)
        try:
            status = etl.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's way
            status = stop.code
        stdout, stderr = capsys.readouterr()
        line = last_line(stderr)
        assert (status, stdout) == (2, ""), line
        assert listing(here) == before
        assert SECRET not in stderr
        return line

    return call


@pytest.fixture
def small(here):
    """An input that could be used."""
    return write_input(here / "in", [song()], [event()])


def test_an_unknown_flag_is_refused(refused):
    assert "--speed" in refused("--speed", "11")


def test_an_abbreviated_flag_is_refused(refused):
    assert "--out" in refused("--out", "lake")


def test_a_stray_argument_is_refused(refused):
    assert "lake" in refused("lake")


@pytest.mark.parametrize("value", ["2", "-0.1", "abc", "nan", "", "1.0001"])
def test_a_max_rejected_that_is_no_fraction_is_refused(refused, value):
    assert "--max-rejected" in refused("--max-rejected", value)


@pytest.mark.parametrize("flag", ["--input", "--output", "--bucket", "--config", "--report", "--max-rejected"])
def test_a_flag_without_its_value_is_refused(refused, flag):
    assert flag in refused(flag)


def test_bucket_and_output_together_are_refused(refused):
    line = refused("--bucket", "lake", "--output", "lake")
    assert "--bucket" in line
    assert "--output" in line


def test_a_missing_configuration_file_is_named(refused):
    assert "other.cfg" in refused("--config", "other.cfg")


def test_a_folder_as_configuration_file_is_refused(refused, here):
    (here / "other.cfg").mkdir()
    assert "other.cfg" in refused("--config", "other.cfg")


@pytest.mark.parametrize(
    "content",
    [
        f"AWS_SECRET_ACCESS_KEY = {SECRET}\n",
        f"[AWS]\n{SECRET}\n",
        f"[AWS]\nAWS_SECRET_ACCESS_KEY = {SECRET}\n  = {SECRET}\n=\n",
        f"[AWS]\nAWS_SECRET_ACCESS_KEY = {SECRET}\nAWS_SECRET_ACCESS_KEY = {SECRET}\n",
        f"[AWS\nAWS_SECRET_ACCESS_KEY = {SECRET}\n",
        f"[{SECRET}]\na = 1\n[{SECRET}]\n",
        f"[AWS]\n{SECRET} = 1\n{SECRET} = 2\n",
        f"[AWS]\n{SECRET} = 1\n",
        f"[{SECRET}]\na = 1\n",
        f"[AWS]\nAWS_SECRET_ACCESS_KEY = {SECRET}\nNAME = \xff\n".encode("latin-1"),
    ],
)
def test_a_malformed_configuration_is_refused_and_not_shown(refused, here, content):
    (here / "dl.cfg").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "dl.cfg" in refused()
    (here / "dl.cfg").rename(here / "other.cfg")
    assert "other.cfg" in refused("--config", "other.cfg")


@pytest.mark.parametrize(("section", "key"), [("DATA", "INPTU"), ("DATE", "INPUT"), ("EMR", "WORKER")])
def test_a_key_of_the_configuration_that_means_nothing_is_refused(refused, here, section, key):
    (here / "dl.cfg").write_text(f"[{section}]\n{key} = 1\n")
    assert f"{key} IN [{section}]" in refused()


def test_an_address_that_is_none_is_refused(refused, here):
    (here / "dl.cfg").write_text("[AWS]\nENDPOINT_URL = localhost:9000\n")
    assert "ENDPOINT_URL" in refused("--input", "s3://lake/in")


def test_a_key_with_a_line_break_is_refused_and_not_shown(refused, here, monkeypatch):
    keys = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": f"{SECRET}\r"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as server:
        (here / "dl.cfg").write_text(f"[AWS]\nENDPOINT_URL = http://127.0.0.1:{server.getsockname()[1]}\n")
        assert "line break" in refused("--input", "s3://lake/in")


def test_a_missing_input_is_named(refused):
    assert "nowhere" in refused("--input", "nowhere")


def test_a_missing_input_of_the_configuration_is_named(refused, here):
    (here / "dl.cfg").write_text("[DATA]\nINPUT = nowhere\n")
    assert "nowhere" in refused()


def test_an_input_that_is_a_file_is_refused(refused, here):
    (here / "in").write_text("x")
    assert "in" in refused("--input", "in")


@pytest.mark.parametrize("missing", ["song_data", "log_data"])
def test_an_input_without_songs_or_logs_is_refused(refused, small, missing):
    (small / missing).rename(small / "else")
    assert missing in refused("--input", small)


@pytest.mark.parametrize("missing", ["song_data", "log_data"])
def test_an_input_with_nothing_but_junk_is_refused(refused, small, missing):
    for path in [path for path in (small / missing).rglob("*.json") if path.is_file()]:
        for junk in (f"_{path.name}", f".{path.name}", f"{path.stem}.txt", f"{path.name}.bak", f"{path.stem}.JSON~"):
            (path.parent / junk).write_bytes(path.read_bytes())
        hidden = path.parent / "__MACOSX"
        hidden.mkdir(exist_ok=True)
        path.rename(hidden / path.name)
    assert missing in refused("--input", small)


def test_an_empty_input_folder_is_refused(refused, here):
    (here / "in").mkdir()
    assert "song_data" in refused("--input", "in")


def test_a_file_that_is_gone_is_refused(refused, small):
    (small / "log_data/gone.json").symlink_to("nowhere.json")
    assert "gone.json" in refused("--input", small)


# ---- Zips ------------------------------------------------------------------------------------------------


def zipped(folder, kind, path, content):
    """The zip of a kind with one member, stored, in the place of the kind's folder."""
    (folder / f"{kind}_data").rename(folder / "else")
    with zipfile.ZipFile(folder / f"{kind}-data.zip", "w") as archive:
        archive.writestr(path, content)
    return folder / f"{kind}-data.zip"


@pytest.mark.parametrize("kind", ["song", "log"])
def test_a_truncated_zip_is_refused(refused, small, kind):
    path = zipped(small, kind, f"{kind}_data/x.json", dirty.dump(song()) * 20)
    path.write_bytes(path.read_bytes()[:-100])
    assert path.name in refused("--input", small)


def test_what_is_no_zip_is_refused(refused, small):
    path = zipped(small, "log", "log_data/x.json", dirty.dump(event()))
    path.write_bytes(b"PK, it says")
    assert path.name in refused("--input", small)
    path.write_bytes(b"")
    assert path.name in refused("--input", small)


def test_a_zip_without_json_is_refused(refused, small):
    zipped(small, "log", "log_data/__MACOSX/x.json", dirty.dump(event()))
    assert "log_data" in refused("--input", small)


# ---- Outputs ---------------------------------------------------------------------------------------------


def test_an_output_that_is_a_file_is_refused(refused, small, here):
    (here / "lake").write_text("x")
    assert "lake" in refused("--input", small, "--output", "lake")


def test_an_output_below_a_file_is_refused(refused, small, here):
    (here / "file").write_text("x")
    assert "file" in refused("--input", small, "--output", "file/lake")


def test_a_report_below_a_file_is_refused(refused, small, here):
    (here / "file").write_text("x")
    assert "file" in refused("--input", small, "--report", "file/report.json")


def test_a_report_that_is_a_folder_is_refused(refused, small, here):
    (here / "report.json").mkdir()
    assert "report.json" in refused("--input", small, "--report", "report.json")


def test_an_output_that_links_to_nothing_is_refused(refused, small, here):
    (here / "lake").symlink_to(here / "gone")
    assert "lake is a link" in refused("--input", small, "--output", "lake")


def test_a_name_that_is_no_utf8_is_refused(refused, small):
    assert "UTF-8" in refused("--input", small, "--output", "lake\udce9")


def test_a_report_that_is_a_bucket_is_refused(refused, small):
    assert "bucket" in refused("--input", small, "--report", "s3://reports")


@pytest.mark.parametrize("query", ["in", "top_artists", "questions/top_artists.sql"])
def test_a_query_that_is_a_name_of_no_file_is_refused(refused, small, query):
    assert f"can't read the query {query}" in refused("--query", query)


def test_a_report_in_the_folder_of_a_table_is_refused(refused, small, here):
    assert "songs" in refused("--input", small, "--output", "lake", "--report", "lake/songs/report.json")


@pytest.mark.parametrize("output", ["in", "in/lake", "in/song_data", ".", "in/../in/log_data/lake", "link/lake"])
def test_an_output_and_an_input_in_each_other_are_refused(refused, small, here, output):
    (here / "link").symlink_to(small)
    line = refused("--input", "in", "--output", output)
    assert "--output" in line


def test_the_output_may_lie_beside_the_input(small):
    etl.check_output(str(small), etl.Output(str(small) + "put"))


@pytest.mark.parametrize(
    "foreign", ["users/photos.txt", "users/2018/x.parquet", "songplays/city=x/y.parquet", "time/year=2018/notes"]
)
def test_an_output_with_a_foreign_file_in_a_tables_place_is_refused(refused, small, here, foreign):
    path = here / "lake" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    assert "lake/" in refused("--input", small, "--output", "lake")
    assert path.read_text() == "precious"


def test_an_output_with_an_empty_foreign_folder_in_a_tables_place_is_refused(refused, small, here):
    (here / "lake/users/mine").mkdir(parents=True)
    assert "users/mine/ is not of the table users" in refused("--input", small, "--output", "lake")


def test_an_output_where_a_tables_place_is_a_file_is_refused(refused, small, here):
    (here / "lake").mkdir()
    (here / "lake/users").write_text("precious")
    assert "users" in refused("--input", small, "--output", "lake")


# ---- With Spark ------------------------------------------------------------------------------------------


def earlier_output(folder):
    """What looks as an earlier run left it."""
    for name in COLUMNS:
        (folder / name).mkdir(parents=True)
        (folder / name / "part-0.parquet").write_text(f"the earlier {name}")
    return listing(folder, hidden=False)


@pytest.mark.long
def test_more_rejected_records_than_allowed_publish_nothing(tmp_path):
    events = [event(itemInSession=number) for number in range(97)] + ["{", "[]", event(ts=None)]
    source = write_input(tmp_path / "in", [song()], events)
    before = earlier_output(tmp_path / "lake")
    process = run_etl("--input", source, "--output", "lake", "--max-rejected", "0.029", cwd=tmp_path)
    line = last_line(process.stderr)
    assert (process.returncode, process.stdout) == (1, ""), line
    assert "3 of 100" in line
    assert "--max-rejected" in line
    assert listing(tmp_path / "lake", hidden=False) == before


def test_a_corrupted_zip_member_is_named_and_nothing_is_written(tmp_path):
    source = write_input(tmp_path / "in", [song()], [event()])
    path = zipped(source, "log", "log_data/broken.json", dirty.dump(event()) + b"\n")
    path.write_bytes(path.read_bytes().replace(b"Setanta", b"Petanta"))  # now the checksum is another's
    before = listing(tmp_path)
    process = run_etl("--input", source, "--output", "lake", cwd=tmp_path)
    line = last_line(process.stderr)
    assert (process.returncode, process.stdout) == (2, ""), line
    assert "log-data.zip" in line
    assert "broken.json" in line
    assert listing(tmp_path) == before


def assert_failed_alone(folder, *arguments, **options):
    """A run fails in one line, and what an earlier one left in lake/ is as it was."""
    before = earlier_output(folder / "lake")
    (folder / "tmp").mkdir()  # a failed run leaves Spark's log there
    options["env"] = environment(TMPDIR=str(folder / "tmp"))
    process = run_etl(*arguments, "--output", "lake", cwd=folder, **options)
    line = last_line(process.stderr)
    assert (process.returncode, process.stdout) == (1, ""), line
    assert listing(folder / "lake", hidden=False) == before
    return line


@pytest.mark.long
def test_a_full_disk_is_one_line_and_publishes_nothing(tmp_path):
    def limit_files():  # to 40 kB, as if the disk were full then
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    assert_failed_alone(tmp_path, "--input", ROOT / "data", preexec_fn=limit_files)


def test_a_failed_spark_job_is_one_line_and_publishes_nothing(tmp_path):
    source = write_input(tmp_path / "in", [song()], [event()])
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake/_staging").write_text("no folder")
    assert "_staging" in assert_failed_alone(tmp_path, "--input", source)


NOTHING = {name: [] for name in COLUMNS}


@pytest.fixture(scope="module")
def no_play(tmp_path_factory):
    """A run over one song and events that are no plays: (process, output)."""
    folder = tmp_path_factory.mktemp("no-play")
    source = write_input(folder / "in", [song()], [event(page="Home"), event(page="Login", userId="")])
    return run_etl("--input", source, "--output", "lake", cwd=folder), folder / "lake"


def test_no_play_at_all_is_a_warning(no_play):
    process, _ = no_play
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert [line for line in process.stderr.splitlines() if line.startswith("etl.py: ") and "play" in line]


def test_no_play_at_all_gives_five_tables_some_of_them_empty(no_play):
    _, output = no_play
    rows = {
        "songs": [("SOZCTXZ12AB0182364", "Setanta matins", "AR5KOSW1187FB35FF4", 269.58322, 0)],
        "artists": [("AR5KOSW1187FB35FF4", "Elena", "Dubai UAE", 49.80388, 15.47491)],
    }
    assert_tables(output, {**NOTHING, **rows})


@pytest.mark.parametrize("name", COLUMNS)
def test_spark_reads_the_empty_tables_with_their_columns(no_play, spark, name):
    _, output = no_play
    table = spark.read.parquet(str(output / name))
    found = {f"{column} {kind}" for column, kind in table.dtypes}
    assert found == set(COLUMNS[name].split(", "))
    assert table.count() == (1 if name in ("songs", "artists") else 0)


@pytest.mark.parametrize("place", ["gs://bucket/lake", "s3n://bucket/lake", "hdfs://", "s3://"])
def test_a_place_that_is_neither_local_nor_on_s3_nor_hdfs_is_refused(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert etl.main(["--output", place]) == 2
    assert capsys.readouterr().err.startswith(f"etl.py: {place}: ")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_for_itself_is_removed_a_week_later(tmp_path):
    for name, days in (("sparkify-etl-old", 8), ("sparkify-etl-new", 6), ("other-old", 8)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "spark.log").write_text("")
        began = time.time() - days * 86400
        os.utime(folder, (began, began))
    refusal = run_etl("--input", tmp_path / "missing", cwd=tmp_path, env=environment(TMPDIR=str(tmp_path)))
    assert refusal.returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-old", "sparkify-etl-new"]


@pytest.mark.parametrize("name", ["2018-11-02.json.gz", "2018-11-02.JSON", "2018-11-02.jsonl"])
def test_a_file_whose_name_is_nearly_right_is_warned_of(small, capsys, name):
    (small / "log_data" / name).write_text("{}")
    (small / "log_data" / "notes.txt").write_text("")
    assert [Path(file.path).name for file in etl.find_files(str(small), "log")] == ["2018-11-01-events.json"]
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert f"1 files, as {small}/log_data/{name}" in stderr


@pytest.mark.long
def test_what_fails_after_the_publishing_says_that_the_tables_are_there(tmp_path):
    write_input(tmp_path / "in", [song()], [event()])
    words = [sys.executable, str(ETL), "--input", "in", "--output", "lake", "--report", "new/report.json"]
    with open("/dev/full", "w") as full:
        options = {"stderr": subprocess.PIPE, "cwd": tmp_path, "text": True, "timeout": 300}
        process = subprocess.run(words, stdout=full, **options)
    assert process.returncode != 0
    assert "No space left on device; the tables are published\n" in process.stderr
    assert json.loads((tmp_path / "new/report.json").read_text())["tables"]["songplays"]["rows"] == 1
    assert sorted(path.name for path in (tmp_path / "lake").iterdir()) == sorted(COLUMNS)
    pipe = f"set -o pipefail; {shlex.join(words)} | true"
    assert subprocess.run(["bash", "-c", pipe], **options).returncode == 0


def processes_of(session):
    """The numbers of the processes of a session that aren't dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of, *_ = path.read_text().rpartition(") ")[2].split()
            found += [path.parent.name] if int(of) == session and state not in "ZX" else []
    return found


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("find input", signal.SIGINT),
        pytest.param("write", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("plan", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("write", signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_an_interrupted_run_is_one_line_and_leaves_nothing(tmp_path, line, number):
    """After the line of a step: Java is starting, or tasks are running."""
    lake = tmp_path / "lake"
    earlier_output(lake)
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(ETL), "--output", str(lake)],
        env=environment(TMPDIR=str(tmp_path / "tmp")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    before, said = listing(lake), ""
    while f"s  {line}" not in said:
        said += process.stderr.readline()
    if line == "find input":
        time.sleep(0.7)
    os.kill(process.pid, number)
    stdout, rest = process.communicate(timeout=300)
    assert (process.returncode, stdout) == (1, "")
    assert last_line(said + rest) == "etl.py: interrupted; nothing is published"
    assert listing(lake) == before
    assert listing(tmp_path / "tmp") == {}
    end = time.monotonic() + 30
    while processes_of(process.pid):
        assert time.monotonic() < end, "Java is left behind"
        time.sleep(0.2)


@pytest.mark.parametrize("size", [4_000, pytest.param(5_000_000, marks=pytest.mark.long)])
def test_a_line_that_is_no_utf8_before_its_carriage_return_is_kept(tmp_path, size):
    source = write_input(tmp_path / "in", [song()], [])
    line = dirty.dump({**event(), "last": "Mu@"}).replace(b"@", b"\xf1") + b"\r\n"
    assert line.endswith(b'\xf1"}\r\n')
    number = 1 + size // len(line)
    (source / "log_data/2018-11-01-events.json").write_bytes(line * number)
    process = run_etl("--input", source, "--output", "lake", "--report", "report.json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    logs = json.loads((tmp_path / "report.json").read_text())["input"]["logs"]
    assert (logs["records"], logs["rejected"], logs["plays"]) == (number, 0, 1)


def test_folders_that_are_linked_to_each_other_are_read_once(tmp_path):
    for name in "abc":
        (tmp_path / "log_data" / name).mkdir(parents=True)
        (tmp_path / "log_data" / name / "x.json").write_text("{}")
        for other in "abc":
            if other != name:
                (tmp_path / "log_data" / name / f"to_{other}").symlink_to(tmp_path / "log_data" / other)
    assert len(etl.find_files(str(tmp_path), "log")) == 3


def test_a_link_to_a_folder_above_is_not_followed_round_in_circles(tmp_path):
    folder = tmp_path / "song_data"
    folder.mkdir()
    (folder / "one.json").write_text("{}")
    (folder / "up").symlink_to(tmp_path)
    assert [file.path for file in etl.find_files(str(tmp_path), "song")] == [str(folder / "one.json")]
