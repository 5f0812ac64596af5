"""One run at a time: the lock of an output, on this machine and on S3."""

import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from s3 import aws_of, client_of
from tables import until

from sparkify import lock as room
from sparkify.errors import JobError, UsageError
from sparkify.lock import LOCK, Lock, process_start, this_machine
from sparkify.storage import storage_of

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    """An output without a lock."""
    if request.param == "local":
        return storage_of(str(tmp_path / "lake"))
    address = request.getfixturevalue("fast_endpoint")
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    client_of(address).create_bucket(Bucket=name)
    return storage_of(f"s3://{name}/lake", aws_of(address))


def text_of(storage):
    """What the lock says, None without one."""
    stored = storage.stored(LOCK)
    return stored and stored[0].decode()


def owner_of(process, **changes):
    """The text of a lock that a process of this machine holds."""
    owner = {"run_id": "20260101T000000Z-00000000", "host": "box", "pid": process, "since": "2026-01-01 00:00:00 UTC"}
    owner.update(machine=this_machine(), process_start=process_start(process))
    return json.dumps({**owner, **changes}).encode()


def silence(storage, monkeypatch):
    """Let a lock be silent for too long."""
    if storage.place.startswith("s3:"):
        monkeypatch.setattr(room, "SILENCE", 0)  # S3's clock has whole seconds
    else:
        monkeypatch.setattr(room, "SILENCE", 1)
        os.utime(storage.path(LOCK), (time.time() - 2, time.time() - 2))


@pytest.fixture
def sleeping():
    """The number of a process that lives as long as the test."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_lock_names_its_owner_and_is_gone_afterwards(storage):
    with Lock(storage, "me") as lock:
        owner = json.loads(text_of(storage))
        assert (owner["run_id"], owner["pid"]) == ("me", os.getpid())
        assert lock.replaced is None
        lock.check()
    assert text_of(storage) is None
    if storage.place.startswith(os.sep):
        assert not os.path.exists(storage.place)


def test_a_second_run_is_refused_by_a_line_that_names_the_first(storage, sleeping):
    storage.write(LOCK, owner_of(sleeping))
    before = text_of(storage)
    said = rf"run 20260101T000000Z-00000000 \(process {sleeping} on box, since .*--recover takes its lock"
    with pytest.raises(UsageError, match=said):
        Lock(storage, "me").__enter__()
    assert text_of(storage) == before


def test_a_lock_from_another_machine_counts_while_it_is_renewed(storage):
    storage.write(LOCK, owner_of(os.getpid(), machine=["elsewhere"], pid=2**22 + 1))
    with pytest.raises(UsageError, match="is being written by run"):
        Lock(storage, "me").__enter__()
    for text in (b"{", b"[1]", b"{}"):  # the first is what a reader sees while it is written
        storage.write(LOCK, text)
        with pytest.raises(UsageError, match="is being written by a run"):
            Lock(storage, "me").__enter__()


@pytest.mark.parametrize("take", [False, True])
@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"process_start": "12"}])
def test_the_lock_of_a_dead_process_is_taken_over(storage, changes, take):
    storage.write(LOCK, owner_of(os.getpid(), **changes))
    with Lock(storage, "me", take=take) as lock:
        assert json.loads(text_of(storage))["run_id"] == "me"
        assert lock.replaced == "the lock of dead run 20260101T000000Z-00000000 released"


def test_a_process_that_nobody_waited_for_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(process.pid) is None
    process.wait()
    assert process_start(process.pid) is None
    assert process_start(os.getpid()) == process_start(os.getpid()) is not None


def test_a_silent_lock_is_taken_over(storage, sleeping, monkeypatch):
    storage.write(LOCK, owner_of(sleeping))
    silence(storage, monkeypatch)
    with Lock(storage, "me") as lock:
        assert json.loads(text_of(storage))["run_id"] == "me"
        assert lock.replaced == "the lock of run 20260101T000000Z-00000000 released"


def test_a_lock_is_renewed_while_it_is_held(storage, monkeypatch):
    monkeypatch.setattr(room, "RENEWAL", 0.05)
    with Lock(storage, "me") as lock:
        time.sleep(2.5)
        until(lambda: lock.read()[1] < 2)  # S3's clock has whole seconds
        lock.check()


def test_who_lost_a_lock_must_not_publish(storage):
    with Lock(storage, "first") as first:
        storage.write(LOCK, owner_of(os.getpid(), machine=["elsewhere"], run_id="first"))
        with Lock(storage, "second", take=True) as second:
            second.check()
            with pytest.raises(JobError, match="was taken over by run second .*: this run was silent"):
                first.check()
        assert text_of(storage) is None
        with pytest.raises(JobError, match="was taken over"):
            first.check()


def test_to_take_a_lock_from_a_process_that_lives_here_is_refused(storage, sleeping, monkeypatch):
    storage.write(LOCK, owner_of(sleeping))
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"\(process {sleeping} on box, .*it is still running on this machine"):
            Lock(storage, "me", take=True).__enter__()
        silence(storage, monkeypatch)
    with Lock(storage, "mine"), pytest.raises(UsageError, match=f"process {os.getpid()} "):
        Lock(storage, "other", take=True).__enter__()


def test_a_lock_that_a_run_of_this_process_left_behind_is_dead(storage):
    storage.write(LOCK, owner_of(os.getpid()))
    with Lock(storage, "me") as lock:
        lock.check()


@pytest.mark.parametrize("left", [None, {"pid": 2**22 + 1}])
def test_of_many_at_once_one_gets_the_lock(storage, left):
    if left:
        storage.write(LOCK, owner_of(os.getpid(), **left))
    got, barrier = [], threading.Barrier(8)

    def take(number):
        barrier.wait()
        try:
            lock = Lock(storage, f"run {number}").__enter__()
            lock.check()
        except (UsageError, JobError):
            return
        got.append(lock)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].__exit__()


@pytest.mark.parametrize("said", [None, "NotImplemented", "MethodNotAllowed", "InvalidArgument"])
def test_a_server_without_conditional_writes_serves_too(fast_endpoint, said):
    client_of(fast_endpoint).create_bucket(Bucket="unconditional")
    storage = storage_of("s3://unconditional/lake", aws_of(fast_endpoint))
    conditions, calls = {"IfNoneMatch", "IfMatch"}, []

    put_object, client_error = storage.client.put_object, storage.client.exceptions.ClientError

    def unconditional(**arguments):
        """Conditions are passed over, or refused."""
        calls.append(conditions & set(arguments))
        if calls[-1] and said:
            raise client_error({"Error": {"Code": said, "Message": "no"}}, "PutObject")
        return put_object(**{name: value for name, value in arguments.items() if name not in conditions})

    storage.client.put_object = unconditional
    with Lock(storage, "me") as lock:
        lock.check()
        storage.write(LOCK, owner_of(os.getpid()))
        with pytest.raises(JobError):
            lock.check()
    assert calls[0]
