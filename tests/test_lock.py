"""One run at a time: the lock of an output, locally, on S3 and on HDFS, and what --recover does with it."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Callable, NamedTuple

import pytest
from dirty import event, song, write_input
from tables import listing, run_etl
from test_s3 import aws_of, client_of, contents, endpoint, fast_endpoint, put, write_config  # noqa: F401

import etl


class Place(NamedTuple):
    """An output without a lock, lock_of it, and how a test sees and changes the lock."""

    output: str
    lock: Callable
    read: Callable
    write: Callable
    client: object = None  # of S3


@pytest.fixture(params=["local", "s3", pytest.param("hdfs", marks=pytest.mark.long)])
def place(request, tmp_path):
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    if request.param == "local":
        path = tmp_path / "lake" / etl.LOCK

        def write(text):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

        output = str(tmp_path / "lake")
        return Place(output, partial(etl.lock_of, output), lambda: path.read_text() if path.exists() else None, write)
    if request.param == "hdfs":
        spark, output = request.getfixturevalue("spark"), f"{request.getfixturevalue('hdfs')}/{name}"
        return Place(output, partial(etl.lock_of, output, spark=spark), *read_and_write(spark, f"{output}/{etl.LOCK}"))
    address = request.getfixturevalue("fast_endpoint")
    s3, key = client_of(address), f"lake/{etl.LOCK}"
    client = etl.aws_client(aws_of(address), "s3")
    return Place(
        f"s3://{name}/lake",
        partial(etl.lock_of, f"s3://{name}/lake", client=client),
        lambda: contents(s3, name, key).get(key, b"").decode() or None,
        lambda text: s3.put_object(Bucket=name, Key=key, Body=text.encode()),
        client,
    )


def read_and_write(spark, place):
    """How a test reads and writes a file on HDFS."""
    files, path = etl._file_system(spark, place)

    def read():
        if not files.exists(path(place)):
            return None
        return etl._read(spark, files.open(path(place))).decode()

    def write(text):
        with contextlib.closing(files.create(path(place), True)) as file:
            file.write(bytearray(text.encode()))

    return read, write


def owner_of(process, **changes):
    """The text of a lock that a process of this machine holds."""
    owner = {"run_id": "20260101T000000Z-00000000", "host": "box", "pid": process, "since": "2026-01-01 00:00:00 UTC"}
    owner.update(machine=etl.this_machine(), process_start=etl.process_start(process))
    return json.dumps({**owner, **changes})


@pytest.fixture
def sleeping():
    """The number of a process that lives as long as the test."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_lock_names_its_owner_and_is_gone_afterwards(place):
    with place.lock("me") as lock:
        owner = json.loads(place.read())
        assert (owner["run_id"], owner["pid"]) == ("me", os.getpid())
        lock.check()
    assert place.read() is None
    if place.output.startswith(os.sep):
        assert not os.path.exists(place.output)


def test_a_second_run_is_refused_by_a_line_that_names_the_first(place, sleeping):
    place.write(owner_of(sleeping))
    before = place.read()
    with pytest.raises(etl.UsageError, match=rf"run 20260101T000000Z-00000000 \(process {sleeping} on box, since"):
        place.lock("me").__enter__()
    assert place.read() == before


def test_a_lock_from_another_machine_counts_while_it_is_renewed(place):
    place.write(owner_of(os.getpid(), machine=["elsewhere"], pid=2**22 + 1))
    with pytest.raises(etl.UsageError, match="is being written by run"):
        place.lock("me").__enter__()
    place.write("{")  # what a reader sees while it is written
    with pytest.raises(etl.UsageError, match="is being written by a run"):
        place.lock("me").__enter__()


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"process_start": "12"}])
def test_the_lock_of_a_dead_process_is_taken_over(place, changes):
    place.write(owner_of(os.getpid(), **changes))
    with place.lock("me"):
        assert json.loads(place.read())["run_id"] == "me"


def test_a_process_that_nobody_waited_for_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert etl.process_start(process.pid) is None
    process.wait()
    assert etl.process_start(process.pid) is None
    assert etl.process_start(os.getpid()) == etl.process_start(os.getpid()) is not None


def test_a_silent_lock_is_taken_over(place, sleeping, monkeypatch):
    place.write(owner_of(sleeping))
    monkeypatch.setattr(etl, "SILENCE", 1)
    if place.output.startswith(os.sep):
        os.utime(f"{place.output}/{etl.LOCK}", (time.time() - 2, time.time() - 2))
    else:
        monkeypatch.setattr(etl, "SILENCE", 0)  # S3's clock has whole seconds
    with place.lock("me"):
        assert json.loads(place.read())["run_id"] == "me"


def test_a_lock_is_renewed_while_it_is_held(place, monkeypatch):
    monkeypatch.setattr(etl, "RENEWAL", 0.05)
    with place.lock("me") as lock:
        time.sleep(1.5)
        assert lock.read()[1] < 1.2


def test_recover_takes_a_lock_at_once_and_who_lost_it_must_not_publish(place):
    with place.lock("first") as first:
        with place.lock("second", at_once=True) as second:
            second.check()
            with pytest.raises(etl.JobError, match="was taken over by run second .*nothing more is published"):
                first.check()
        assert place.read() is None
        with pytest.raises(etl.JobError, match="was taken over"):
            first.check()


def test_of_many_at_once_one_gets_the_lock(place):
    got, barrier = [], threading.Barrier(8)

    def take(number):
        barrier.wait()
        try:
            lock = place.lock(f"run {number}").__enter__()
        except etl.UsageError:
            return
        got.append(lock)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].__exit__()


def test_a_server_without_conditional_writes_serves_too(place):
    if place.client:

        def unconditional(params, **_):
            assert {"If-None-Match", "If-Match"} & set(params["headers"])
            for name in ("If-None-Match", "If-Match"):
                params["headers"].pop(name, None)

        place.client.meta.events.register("before-call.s3.PutObject", unconditional)
    with place.lock("me") as lock:
        lock.check()
        place.write(owner_of(os.getpid()))
        with pytest.raises(etl.JobError):
            lock.check()


# ---- Before Spark, and --recover -------------------------------------------------------------------------


@pytest.fixture
def no_spark(monkeypatch):
    monkeypatch.setattr(etl, "spark_session", lambda *_, **__: pytest.fail("Spark is started"))


def test_a_locked_output_is_refused_before_spark_starts(tmp_path, no_spark, sleeping, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_input(tmp_path / "in", [song()], [event()])
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / etl.LOCK).write_text(owner_of(sleeping))
    before = listing(tmp_path)
    assert etl.main(["--input", "in", "--output", "lake"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("etl.py: ")
    assert f"process {sleeping} on box" in line
    assert listing(tmp_path) == before


@pytest.mark.parametrize("arguments", [["--query", "SELECT 1"], ["--report", "r.json"]])
def test_recover_with_what_belongs_to_a_run_is_refused(arguments, no_spark, capsys):
    assert etl.main(["--recover", *arguments]) == 2
    assert "--recover" in capsys.readouterr().err


def test_recover_without_an_output_is_refused(tmp_path, no_spark, capsys):
    assert etl.main(["--recover", "--output", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("etl.py: there is no folder")


def test_recover_on_s3_needs_neither_input_nor_spark(fast_endpoint, tmp_path, no_spark, capsys, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    s3, run_id = client_of(fast_endpoint), "20260101T000000Z-00000000"
    write_config(tmp_path, fast_endpoint)
    objects = {"users/old.parquet": b"old", f"_staging/{run_id}/users/new.parquet": b"new"}
    objects["_journal.json"] = json.dumps({"run_id": run_id, "files": 1}).encode()
    objects[etl.LOCK] = owner_of(os.getpid(), machine=["elsewhere"]).encode()
    for key, content in objects.items():
        s3.put_object(Bucket="recover", Key=key, Body=content)
    assert etl.main(["--recover", "--bucket", "recover"]) == 0
    assert run_id in capsys.readouterr().out
    assert contents(s3, "recover") == {"users/new.parquet": b"new"}
    assert etl.main(["--recover", "--bucket", "recover"]) == 0
    assert "nothing to recover" in capsys.readouterr().out
    assert contents(s3, "recover") == {"users/new.parquet": b"new"}


def test_recover_on_this_machine_needs_neither_input_nor_spark(tmp_path, no_spark, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_id = "20260101T000000Z-00000000"
    for name in ("users/old.parquet", f"_staging/{run_id}/users/new.parquet"):
        (tmp_path / "lake" / name).parent.mkdir(parents=True)
        (tmp_path / "lake" / name).write_text(name)
    journal = {"run_id": run_id, "staged": {name: name == "users" for name in etl.STAGED}}
    (tmp_path / "lake" / etl.JOURNAL).write_text(json.dumps(journal))
    (tmp_path / "lake" / etl.LOCK).write_text(owner_of(os.getpid(), machine=["elsewhere"]))
    for said in (run_id, "nothing to recover"):
        assert etl.main(["--recover", "--output", "lake"]) == 0
        assert said in capsys.readouterr().out
        assert sorted(listing(tmp_path / "lake")) == ["users", "users/new.parquet"]


def test_recover_of_an_output_without_a_journal_changes_nothing(tmp_path):
    (tmp_path / "lake/users").mkdir(parents=True)
    (tmp_path / "lake/users/a.parquet").write_text("a")
    before = listing(tmp_path)
    process = run_etl("--recover", "--output", "lake", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("etl.py: nothing to recover")
    assert listing(tmp_path) == before


# ---- Old staging -----------------------------------------------------------------------------------------


def run_id_of(days, tail="0a1b2c3d"):
    return time.strftime(etl.RUN_TIME, time.gmtime(time.time() - days * 86400)) + f"-{tail}"


OLD = [run_id_of(7.01), run_id_of(400)]
KEPT = [run_id_of(6.99), run_id_of(0), f"{OLD[0]}0", f"x{OLD[0]}", OLD[0][:-1], OLD[0].upper(), "theirs", "2020"]


def test_staging_older_than_a_week_is_removed_and_nothing_else(tmp_path):
    for name in [*OLD, *KEPT]:
        (tmp_path / "lake/_staging" / name / "users").mkdir(parents=True)
        (tmp_path / "lake/_staging" / name / "users/a.parquet").write_text(name)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/a").write_text("a")
    (tmp_path / "lake/_staging" / OLD[0] / "link").symlink_to(tmp_path / "precious")
    assert etl.Output(str(tmp_path / "lake")).discard_old() == sorted(OLD)
    assert sorted(path.name for path in (tmp_path / "lake/_staging").iterdir()) == sorted(KEPT)
    assert (tmp_path / "precious/a").read_text() == "a"
    assert etl.Output(str(tmp_path / "nowhere")).discard_old() == []


def test_staging_older_than_a_week_is_removed_on_s3(fast_endpoint):  # noqa: F811
    s3 = client_of(fast_endpoint)
    for name in [*OLD, *KEPT]:
        s3.put_object(Bucket="week", Key=f"lake/_staging/{name}/users/a.parquet", Body=b"")
    s3.put_object(Bucket="week", Key="lake/users/a.parquet", Body=b"")
    assert etl.S3Output("s3://week/lake", s3).discard_old() == sorted(OLD)
    left = {f"lake/_staging/{name}/users/a.parquet" for name in KEPT}
    assert set(contents(s3, "week")) == {*left, "lake/users/a.parquet"}


def test_what_was_never_uploaded_to_its_end_is_removed_after_a_week(endpoint):  # noqa: F811
    s3 = client_of(endpoint)
    put(s3, "uploads", {})
    for name in (OLD[0], KEPT[0], "theirs"):
        s3.create_multipart_upload(Bucket="uploads", Key=f"_staging/{name}/users/a.parquet")
    assert etl.S3Output("s3://uploads", s3).discard_old() == [OLD[0]]
    left = {upload["Key"] for upload in s3.list_multipart_uploads(Bucket="uploads")["Uploads"]}
    assert left == {f"_staging/{name}/users/a.parquet" for name in (KEPT[0], "theirs")}
