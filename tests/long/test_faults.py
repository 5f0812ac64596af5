"""Nothing lost: what the output holds after a run is killed, or its disk or its S3 fails.

../README.md lists the faults. An analyst who reads the tables after one finds the old ones or the new ones;
after the next run all five are new.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from proxy import Proxy
from s3 import client_of, contents, downloaded, put, write_config
from tables import COLUMNS, ETL, ROOT, assert_tables, environment, is_hidden, listing, run_etl, visible

# ---- Killed anywhere in a run ------------------------------------------------------------------------------

# Songs and artists begin together, and so do the other three tables. A step begins where another ends. The instants
# between the moves have a test of their own, in ../test_publish.py.
STEPS = ["find input", "start Spark", "read songs", "read logs", "write songs", "write songplays", "audit"]
STEPS += ["publish"]
INSTANTS = [f"{step} begins" for step in STEPS] + ["before the journal", "the journal", "publish ends"]
S3_INSTANTS = ["before the journal", "all away"]


def kill_run(point, *arguments, cwd):
    """Run etl.py in a process group of its own, and kill -9 all of it where it pauses."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests/paused.py", point, *map(str, arguments)],
        cwd=cwd,
        env=environment(TMPDIR=str(cwd), AWS_EC2_METADATA_DISABLED="true"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = []
    try:
        paused = next((True for line in process.stderr if said.append(line) or f"paused at {point}" in line), False)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    assert paused, "".join(said)


def test_killed_at_any_instant_of_a_run_nothing_is_lost(inputs, lake):
    """One output, killed again and again: each run begins with what the one before has left."""
    now, other = inputs
    for instant in INSTANTS:
        kill_run(instant, "--input", other[0], "--output", "lake", cwd=lake)
        if instant == "the journal":  # nothing was moved yet
            assert (lake / "lake/_journal.json").exists()
            now, other = other, now
            assert run_etl("--recover", "--output", "lake", cwd=lake).returncode == 0
        elif instant == "publish ends":
            now, other = other, now
        assert_tables(lake / "lake", now[1])
    process = run_etl("--input", other[0], "--output", "lake", cwd=lake)
    assert process.returncode == 0, process.stderr
    assert_tables(lake / "lake", other[1])
    assert {path.name for path in (lake / "lake").iterdir()} <= {*COLUMNS, "_staging", "_published.json"}


def test_killed_at_any_instant_of_a_run_nothing_is_lost_on_s3(inputs, lake, fast_endpoint):
    s3, (now, other) = client_of(fast_endpoint), inputs
    put(s3, "killed", {f"lake/{k}": v for k, v in visible(lake / "lake").items() if v is not None})
    write_config(lake, fast_endpoint)
    for instant in S3_INSTANTS:
        kill_run(instant, "--input", other[0], "--output", "s3://killed/lake", cwd=lake)
        if instant != "all away":
            assert_tables(downloaded(s3, "killed", "lake/", lake / instant), now[1])
    process = run_etl("--input", now[0], "--output", "s3://killed/lake", cwd=lake)
    assert process.returncode == 0, process.stderr
    assert "finished publishing run" in process.stderr
    assert_tables(downloaded(s3, "killed", "lake/", lake / "after"), now[1])
    hidden = [key for key in contents(s3, "killed", "lake/") if is_hidden(key) and "/_staging/" not in key]
    assert hidden == ["lake/_published.json"]


# ---- Disks -------------------------------------------------------------------------------------------------

# A disk of its own, which only this process sees: 1 MB, with the tables of an earlier run.
DISK = """
mount -t tmpfs -o size=1m disk disk && cp -r lake/. disk && {fault}
status=0
"$0" "$@" || status=$?
rm -f disk/filling; wait
rm -rf lake && cp -r disk lake && exit $status
"""


def on_a_disk(folder, fault, source):
    command = ["unshare", "-rm", "sh", "-c", DISK.format(fault=fault), sys.executable, ETL]
    (folder / "disk").mkdir()
    before = visible(folder / "lake")
    command += ["--input", source, "--output", "disk"]
    process = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, env=environment(TMPDIR=str(folder))
    )
    assert (process.returncode, process.stdout) == (1, ""), process.stderr
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith("etl.py: "), process.stderr
    assert visible(folder / "lake") == before
    return process.stderr


@pytest.mark.parametrize("left", [8, 24])
def test_a_full_disk_leaves_the_old_tables(inputs, lake, left):
    fill = "dd if=/dev/zero of=disk/filling bs=1k 2>/dev/null; "
    fill += f"truncate -s $(( $(stat -c %s disk/filling) - {left * 1024} )) disk/filling"
    assert "No space left on device" in on_a_disk(lake, fill, inputs[1][0])


def test_an_output_that_is_read_only_halfway_leaves_the_old_tables(inputs, lake):
    there = "ls disk/_staging/*/users >/dev/null 2>&1"
    wait = f"(until {there}; do sleep .01; done; until mount -o remount,ro disk 2>/dev/null; do sleep .01; done) &"
    assert "nothing is published" in on_a_disk(lake, wait, inputs[1][0])


# ---- S3 ----------------------------------------------------------------------------------------------------


class Faulty(Proxy):
    """Before an S3 server; fault(number, method, path) says what becomes of a request: a number is a status."""

    def __init__(self, backend, fault):
        self.fault, self.number = fault, 0
        super().__init__(backend, self.answer)

    def answer(self, request, _):
        self.number += 1
        fault = self.fault(self.number, request.command, request.path)
        if isinstance(fault, int):
            return fault, b"<Error><Code>InternalError</Code><Message>Again.</Message></Error>"
        return fault


@pytest.fixture
def faulty(fast_endpoint, inputs, lake, run_here):
    """Put the second input beside the first one's tables, then run on S3 with a fault; gives what came of it."""
    servers = []

    def call(fault):
        s3, bucket = client_of(fast_endpoint), f"faulty-{time.time_ns()}"
        put(s3, bucket, {f"lake/{k}": v for k, v in visible(lake / "lake").items() if v is not None})
        for name, content in listing(inputs[1][0]).items():
            if content is not None:
                s3.put_object(Bucket=bucket, Key=f"in/{name}", Body=content)
        servers.append(Faulty(fast_endpoint, fault))
        write_config(lake, servers[-1].address)
        arguments = ("--input", f"s3://{bucket}/in", "--output", f"s3://{bucket}/lake")
        status, line = run_here(*arguments)
        servers[-1].fault = lambda *_: None
        tables = downloaded(s3, bucket, "lake/", lake / bucket)
        if status:
            journal = (tables / "_journal.json").exists()
            if not journal:
                assert_tables(tables, inputs[0][1])
            # A lock may be left, whose process, this one, lives.
            assert run_here("--recover", *arguments[2:])[0] == 0
            assert run_here(*arguments)[0] == 0
            shutil.rmtree(tables)
            downloaded(s3, bucket, "lake/", tables)
        assert_tables(tables, inputs[1][1])
        return status, line, servers[-1].number

    yield call
    for server in servers:
        server.close()


@pytest.mark.parametrize("code", [500, 503])
def test_of_requests_to_s3_5_in_100_are_refused_and_the_run_ends_right(faulty, code):
    status, line, requests = faulty(lambda number, *_: code if number % 20 == 3 else None)
    assert (status, requests > 40) == (0, True), line


def test_answers_of_s3_that_break_off_are_asked_for_again(faulty):
    cut = set()

    def fault(number, method, path):
        """The first answer for each object of the input."""
        if method == "GET" and "/in/" in path and path.split("?")[0] not in cut:
            cut.add(path.split("?")[0])
            return "cut"
        return None

    status, line, _ = faulty(fault)
    assert (status, len(cut)) == (0, 4), line


@pytest.mark.parametrize("begins", [10, 25, 40])
def test_s3_that_is_gone_for_five_seconds_loses_nothing(faulty, begins):
    since = []

    def fault(number, *_):
        if number >= begins and not since:
            since.append(time.monotonic())
        return "down" if since and time.monotonic() - since[0] < 5 else None

    faulty(fault)
    assert since


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_s3_that_never_comes_back_leaves_the_old_tables(faulty, method):
    gone = []

    def fault(number, asked, path):
        if asked == method and ("part-" in path or "delete" in path):
            gone.append(number)
        return "down" if gone else None

    status, line, _ = faulty(fault)
    assert (status, "ENDPOINT_URL" in line) == (1, True), line
