"""Bad arguments, bad configuration and bad input: one line says what is wrong, and nothing is written.

What is found before Spark starts is tested in this process, where starting Spark would fail the test.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import boto3
import dirty
import pytest
from dirty import event, song, write_input
from tables import COLUMNS, ETL, assert_tables, environment, listing, until

import etl
from sparkify import errors, session
from sparkify.source import SMALL_INPUT

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


def last_line(stderr):
    """The one line of an error: the last of standard error, and no traceback anywhere."""
    assert "Traceback" not in stderr, stderr
    assert not re.search(r"^\s+at [\w.$/]+\(", stderr, re.MULTILINE), stderr
    assert stderr.endswith("\n")
    line = stderr[:-1].rsplit("\n", 1)[-1]
    assert line.startswith("etl.py: "), stderr
    assert len(line) < 500
    return line


# ---- Before Spark starts ---------------------------------------------------------------------------------


@pytest.fixture
def here(no_aws_from_outside, tmp_path):
    """An empty working folder, without AWS settings from outside."""
    return tmp_path


@pytest.fixture
def refused(here, monkeypatch, capsys):
    """Call main with bad arguments: exit status 2, one line, nothing on standard output, nothing written."""
    monkeypatch.setattr(session, "spark_session", lambda *_, **__: pytest.fail("Spark is started"))

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


def test_an_address_that_is_none_is_refused(refused, here):
    (here / "dl.cfg").write_text("[AWS]\nENDPOINT_URL = localhost:9000\n")
    assert "ENDPOINT_URL" in refused("--input", "s3://lake/in")


def test_a_key_with_a_line_break_is_refused_and_not_shown(refused, here, monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps what it finds, for the tests that follow, too
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


def test_a_report_that_is_a_folder_is_refused(refused, small, here):
    (here / "report.json").mkdir()
    assert "report.json" in refused("--input", small, "--report", "report.json")


def test_an_output_that_links_to_nothing_is_refused(refused, small, here):
    (here / "lake").symlink_to(here / "gone")
    assert "lake is a link" in refused("--input", small, "--output", "lake")


def test_a_report_that_is_a_bucket_is_refused(refused, small):
    assert "bucket" in refused("--input", small, "--report", "s3://reports")


def test_a_report_in_the_folder_of_a_table_is_refused(refused, small, here):
    assert "songs" in refused("--input", small, "--output", "lake", "--report", "lake/songs/report.json")


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


def test_more_rejected_records_than_allowed_publish_nothing(tmp_path, run_here):
    events = [event(itemInSession=number) for number in range(97)] + ["{", "[]", event(ts=None)]
    source = write_input(tmp_path / "in", [song()], events)
    before = earlier_output(tmp_path / "lake")
    status, line = run_here("--input", source, "--output", "lake", "--max-rejected", "0.029")
    assert (status, run_here.stdout) == (1, ""), line
    assert "3 of 100" in line
    assert "--max-rejected" in line
    assert listing(tmp_path / "lake", hidden=False) == before


def test_a_corrupted_zip_member_is_named_and_nothing_is_written(tmp_path, run_here):
    source = write_input(tmp_path / "in", [song()], [event()])
    path = zipped(source, "log", "log_data/broken.json", dirty.dump(event()) + b"\n")
    path.write_bytes(path.read_bytes().replace(b"Setanta", b"Petanta"))  # now the checksum is another's
    before = listing(tmp_path)
    status, line = run_here("--input", source, "--output", "lake")
    assert (status, run_here.stdout) == (2, ""), line
    assert "log-data.zip" in line
    assert "broken.json" in line
    assert listing(tmp_path) == before


def test_a_failed_spark_job_is_one_line_and_publishes_nothing(tmp_path, run_here):
    source = write_input(tmp_path / "in", [song()], [event()])
    before = earlier_output(tmp_path / "lake")
    (tmp_path / "lake/_staging").write_text("no folder")
    status, line = run_here("--input", source, "--output", "lake")
    assert (status, run_here.stdout) == (1, "")
    assert "_staging" in last_line(f"{line}\n")
    assert listing(tmp_path / "lake", hidden=False) == before


def test_no_play_at_all_is_a_warning_and_gives_five_tables_some_of_them_empty(tmp_path, run_here, spark):
    source = write_input(tmp_path / "in", [song()], [event(page="Home"), event(page="Login", userId="")])
    assert run_here("--input", source, "--output", "lake")[0] == 0
    assert "etl.py: warning: no event is a play: " in run_here.stderr
    rows = {
        **{name: [] for name in COLUMNS},
        "songs": [("SOZCTXZ12AB0182364", "Setanta matins", "AR5KOSW1187FB35FF4", 269.58322, 0)],
        "artists": [("AR5KOSW1187FB35FF4", "Elena", "Dubai UAE", 49.80388, 15.47491)],
    }
    assert_tables(tmp_path / "lake", rows)
    for name in COLUMNS:
        table = spark.read.parquet(str(tmp_path / "lake" / name))
        found = {f"{column} {kind}" for column, kind in table.dtypes}
        assert (name, found) == (name, set(COLUMNS[name].split(", ")))
        assert table.count() == len(rows[name])


def test_what_a_killed_run_left_for_itself_is_removed_a_week_later(tmp_path, monkeypatch):
    for name, days in (("sparkify-etl-old", 8), ("sparkify-etl-new", 6), ("other-old", 8)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "spark.log").write_text("")
        began = time.time() - days * 86400
        os.utime(folder, (began, began))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    new = Path(errors.Ending().work)
    assert {path.name for path in tmp_path.iterdir()} == {"other-old", "sparkify-etl-new", new.name}


def processes_of(session):
    """The numbers of the processes of a session that aren't dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of, *_ = path.read_text().rpartition(") ")[2].split()
            found += [path.parent.name] if int(of) == session and state not in "ZX" else []
    return found


def interrupt(tmp_path, line, number, kill=os.kill):
    """A run that gets a signal after the line of a step says one line and leaves nothing."""
    lake = tmp_path / "lake"
    earlier_output(lake)
    (tmp_path / "tmp").mkdir()
    arguments = ["--output", str(lake)]
    if line == "read logs":  # of an input that tasks read
        line_of_log = dirty.dump(event()) + b"\n"
        source = write_input(tmp_path / "in", [song()], [])
        (source / "log_data/large.json").write_bytes(line_of_log * (SMALL_INPUT // len(line_of_log) + 1))
        arguments += ["--input", str(source)]
    process = subprocess.Popen(
        [sys.executable, str(ETL), *arguments],
        env=environment(TMPDIR=str(tmp_path / "tmp")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    before, said = listing(lake), ""
    while f"  {line}" not in said:
        more = process.stderr.readline()
        assert more, said
        said += more
    if line == "find input":
        time.sleep(0.7)
    kill(process.pid, number)
    stdout, rest = process.communicate(timeout=300)
    assert (process.returncode, stdout) == (1, "")
    assert last_line(said + rest) == "etl.py: interrupted; nothing is published"
    assert "Traceback" not in rest
    assert listing(lake) == before
    assert listing(tmp_path / "tmp") == {}
    until(lambda: not processes_of(process.pid))  # Java is not left behind


def test_a_run_interrupted_while_java_starts_is_one_line_and_leaves_nothing(tmp_path):
    interrupt(tmp_path, "find input", signal.SIGINT)


def read_odd_lines(tmp_path, size, run_here):
    """A log of a size, of lines that are no UTF-8 before their carriage return, is one play and its copies."""
    source = write_input(tmp_path / "in", [song()], [])
    line = dirty.dump({**event(), "last": "Mu@"}).replace(b"@", b"\xf1") + b"\r\n"
    assert line.endswith(b'\xf1"}\r\n')
    number = 1 + size // len(line)
    (source / "log_data/2018-11-01-events.json").write_bytes(line * number)
    assert run_here("--input", source, "--output", "lake", "--report", "report.json")[0] == 0
    logs = json.loads((tmp_path / "report.json").read_text())["input"]["logs"]
    assert (logs["records"], logs["rejected"], logs["plays"]) == (number, 0, 1)


def test_a_line_that_is_no_utf8_before_its_carriage_return_is_kept(tmp_path, run_here):
    read_odd_lines(tmp_path, 4_000, run_here)


@pytest.mark.parametrize("output", ["in/song_data", "in/../in/log_data/lake", "link/song_data/lake"])
def test_an_output_in_the_data_of_the_input_is_refused(refused, small, here, output):
    (here / "link").symlink_to(small)
    assert "--output" in refused("--input", "in", "--output", output)


def test_input_and_output_may_share_a_folder(tmp_path, run_here):
    source = write_input(tmp_path / "in", [song()], [event()])
    for output in (source, source / "lake", source):
        status, line = run_here("--input", source, "--output", output)
        assert status == 0, line
        assert {path.name for path in output.iterdir()} >= set(COLUMNS)


def test_what_is_left_out_is_one_warning(tmp_path, capsys):
    source = write_input(tmp_path / "in", [song()], [event()])
    for name in ("x.JSON", "notes.txt", "z.json.bz2", "_hidden.txt"):
        (source / "log_data" / name).write_text("{}")
    etl.find_input(str(source))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"etl.py: warning: files skipped: 3, for example {source}/log_data/notes.txt; ")


def test_plays_that_are_all_in_1970_are_warned_of(tmp_path, run_here):
    source = write_input(tmp_path / "in", [song()], [event(ts=ts) for ts in (1_541_105_830, 31_535_999_999)])
    assert run_here("--input", source, "--output", "lake")[0] == 0
    assert "is ts in seconds?" in run_here.stderr


def test_closed_streams_are_no_reason_to_fail(tmp_path):
    (tmp_path / "lake/songs").mkdir(parents=True)
    words = shlex.join([sys.executable, str(ETL), "--recover", "--output", "lake"])
    assert subprocess.run(["bash", "-c", f"{words} <&- >&- 2>&-"], cwd=tmp_path, check=False).returncode == 0


def test_without_a_place_for_its_files_it_is_one_line(tmp_path, monkeypatch, capsys):
    write_input(tmp_path / "in", [song()], [event()])
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert etl.main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "lake")]) == 1
    assert "failed: [Errno 2] No such file or directory: '/nowhere" in capsys.readouterr().err.splitlines()[-1]


def test_a_table_that_becomes_much_smaller_is_warned_of(tmp_path, run_here):
    many = write_input(tmp_path / "many", [song()], [event(itemInSession=number) for number in range(30)])
    few = write_input(tmp_path / "few", [song()], [event()])
    for source, said in ((many, False), (few, True)):
        assert run_here("--input", source, "--output", "lake")[0] == 0
        assert ("songplays had 30 rows, now 1" in run_here.stderr) is said
