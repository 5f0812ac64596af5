"""What is wrong late: full disks, and a signal while tasks run."""

import fcntl
import json
import os
import pty
import resource
import shlex
import signal
import subprocess
import sys
import termios

import pytest
from dirty import event, song, write_input
from tables import COLUMNS, ETL, environment, listing, run_etl, until
from test_bad_input import earlier_output, interrupt, last_line, processes_of, read_odd_lines


def test_a_full_disk_is_one_line_and_publishes_nothing(tmp_path):
    def limit_files():  # to 40 kB, as if the disk were full then
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    before = earlier_output(tmp_path / "lake")
    (tmp_path / "tmp").mkdir()  # a failed run leaves Spark's log there
    # With an archive of classes yet to be left, Java ends before the error is told.
    folders = {"TMPDIR": f"{tmp_path}/tmp", "XDG_CACHE_HOME": f"{tmp_path}/cache"}
    process = run_etl("--output", "lake", cwd=tmp_path, env=environment(**folders), preexec_fn=limit_files)
    line = last_line(process.stderr)
    assert (process.returncode, process.stdout) == (1, ""), line
    assert listing(tmp_path / "lake", hidden=False) == before


def test_what_fails_after_the_publishing_says_that_the_tables_are_there(tmp_path):
    write_input(tmp_path / "in", [song()], [event()])
    words = [sys.executable, str(ETL), "--input", "in", "--output", "lake", "--report", "report.json"]
    with open("/dev/full", "w") as full:
        options = {"stderr": subprocess.PIPE, "cwd": tmp_path, "text": True, "timeout": 300}
        process = subprocess.run(words, stdout=full, preexec_fn=lambda: os.umask(0o007), **options)
    assert process.returncode != 0
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "lake").rglob("*.parquet")}
    modes |= {path.stat().st_mode & 0o777 for path in (tmp_path / "lake").rglob("*") if path.is_dir()}
    assert modes == {0o660, 0o770}  # what the user's umask leaves, not Hadoop's
    assert "No space left on device; the tables are published\n" in process.stderr
    assert json.loads((tmp_path / "report.json").read_text())["tables"]["songplays"]["rows"] == 1
    assert sorted(path.name for path in (tmp_path / "lake").iterdir()) == sorted(["_published.json", *COLUMNS])
    pipe = f"set -o pipefail; {shlex.join(words)} | true"
    assert subprocess.run(["bash", "-c", pipe], **options).returncode == 0


@pytest.mark.parametrize(
    ("line", "number", "kill"),
    [
        ("write", signal.SIGTERM, os.kill),
        ("write", signal.SIGTERM, os.killpg),  # Java is told to end, too
        ("start Spark", signal.SIGTERM, os.kill),
        ("write", signal.SIGINT, os.kill),
        ("read logs", signal.SIGINT, os.kill),
    ],
)
def test_a_run_interrupted_while_tasks_run_is_one_line_and_leaves_nothing(tmp_path, line, number, kill):
    interrupt(tmp_path, line, number, kill)


def test_a_run_whose_terminal_is_closed_leaves_nothing(tmp_path):
    (tmp_path / "tmp").mkdir()
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ETL), "--output", str(tmp_path / "lake")],
        env=environment(TMPDIR=str(tmp_path / "tmp")),
        stdin=there,
        stdout=there,
        stderr=there,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(there)
    said = b""
    while b"  write" not in said:
        said += os.read(here, 1000)
    os.close(here)
    assert process.wait(60) == 1
    assert listing(tmp_path) == {"tmp": None}
    until(lambda: not processes_of(process.pid))


def test_many_lines_that_are_no_utf8_before_their_carriage_return_are_kept(tmp_path, run_here):
    read_odd_lines(tmp_path, 5_000_000, run_here)
