"""Staging to tables, on this machine and on S3: all five or none, whatever stops it; and what recovers."""

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pytest
from dirty import event, song, write_input
from paused import wait_at
from s3 import aws_of, client_of, contents, downloaded, put, storage_at
from tables import COLUMNS, listing
from test_lock import owner_of, sleeping  # noqa: F401

import etl
from sparkify import session
from sparkify.errors import JobError, PlaceError, UsageError
from sparkify.lock import LOCK, Lock
from sparkify.publish import (
    JOURNAL,
    RUN_TIME,
    check_output,
    discard_old_staging,
    move_by_journal,
    publish,
    read_journal,
    recover_only,
    staging_of,
)
from sparkify.storage import LocalStorage, storage_of

pytestmark = pytest.mark.usefixtures("no_aws_from_outside")

RUN_ID = "20260101T000000Z-00000000"
NAMES = [*COLUMNS, "_rejected"]
STAGED = {"run_id": RUN_ID, "staged": dict.fromkeys(NAMES, 1)}


def publishing(storage):
    """Publish what is staged in a storage, by a lock of its own."""
    with Lock(storage, RUN_ID) as lock:
        publish(storage, RUN_ID, lock, {})


def recovering(storage):
    """What the next run does first."""
    with Lock(storage, "next") as lock:
        return move_by_journal(storage, lock)


# ---- Killed between two moves ------------------------------------------------------------------------------


def write_tables(folder, version):
    """Five tables and _rejected of one row each, which say a version."""
    for name in NAMES:
        below = folder / name / ("year=2018/month=11" if name in ("songplays", "time") else "")
        below.mkdir(parents=True)
        if name == "_rejected":
            (below / f"{version}.json").write_text(version)
        else:
            duckdb.sql(f"SELECT '{version}' AS version").write_parquet(str(below / f"{version}.parquet"))


def versions(output):
    """{table: its version as an analyst's query finds it, None where the table is missing}"""
    found = {}
    for name in COLUMNS:
        files = f"{output}/{name}/**/*.parquet"
        if list(Path(output, name).rglob("*.parquet")):
            ((found[name],),) = duckdb.sql(f"SELECT string_agg(version) FROM read_parquet('{files}')").fetchall()
        else:
            found[name] = None
    return found


def killed_at(point, action):
    """Do action in a process that is killed, kill -9, where it pauses; whether it came to that."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        wait_at(point)
        with contextlib.suppress(BaseException):
            action()
        os._exit(0)
    os.close(writer)
    with open(reader) as said:
        paused = next((True for line in said if f"paused at {point}" in line), False)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return paused


MOVES = ["before the journal", "the journal", *[f"{name} {where}" for name in NAMES for where in ("away", "there")]]
MOVES += ["the journal removed"]


@pytest.mark.parametrize("point", MOVES)
def test_killed_between_two_moves_the_next_run_has_all_five(tmp_path, point):
    output = LocalStorage(str(tmp_path / "lake"))
    write_tables(tmp_path / "lake", "old")
    write_tables(tmp_path / "lake" / staging_of(RUN_ID), "new")
    assert killed_at(point, lambda: publishing(output))
    found = versions(output.place)
    assert list(found.values()).count(None) <= 1
    assert {"old", "new", None} >= set(found.values())
    if 0 < MOVES.index(point) < MOVES.index("users there"):  # recovering may be killed as well
        assert killed_at("users there", lambda: recovering(output))
    done = recovering(output)
    expected = "old" if point == "before the journal" else "new"
    assert versions(output.place) == dict.fromkeys(COLUMNS, expected)
    assert listing(tmp_path / "lake/_rejected") == {f"{expected}.json": expected.encode()}
    assert done == (None if point in ("before the journal", "the journal removed") else RUN_ID)
    assert recovering(output) is None


def test_a_folder_of_which_nothing_is_staged_is_taken_away(tmp_path):
    write_tables(tmp_path / "lake", "old")
    write_tables(tmp_path / "lake" / staging_of(RUN_ID), "new")
    (tmp_path / "lake" / staging_of(RUN_ID) / "_rejected/new.json").unlink()
    (tmp_path / "lake" / staging_of(RUN_ID) / "_rejected").rmdir()
    publishing(LocalStorage(str(tmp_path / "lake")))
    assert versions(tmp_path / "lake") == dict.fromkeys(COLUMNS, "new")
    assert {path.name for path in (tmp_path / "lake").iterdir()} == set(COLUMNS)


@pytest.mark.parametrize(
    ("text", "said"),
    [(json.dumps(STAGED), "restore it, or delete"), *[(text, "is damaged") for text in ("", "[1]", "{}", '{"run_id')]],
)
@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_damaged_journal_or_staging_that_is_gone_is_one_line_and_moves_nothing(request, tmp_path, place, text, said):
    write_tables(tmp_path / "lake", "old")
    storage = LocalStorage(str(tmp_path / "lake"))
    if place == "s3":
        address = request.getfixturevalue("fast_endpoint")
        tables, storage = storage, storage_of(f"s3://damaged-{abs(hash(text))}/lake", aws_of(address))
        client_of(address).create_bucket(Bucket=storage.bucket)
        storage.upload(tables.place, "")
    storage.write(JOURNAL, text.encode())
    before = storage.everything()
    with pytest.raises(JobError, match=said) as error:
        recovering(storage)
    assert JOURNAL in str(error.value)
    assert "\n" not in str(error.value)
    assert storage.everything() == before


def test_a_journal_that_is_there_is_never_overwritten(tmp_path):
    storage = LocalStorage(str(tmp_path / "lake"))
    write_tables(tmp_path / "lake" / staging_of(RUN_ID), "new")
    storage.write(JOURNAL, b'{"run_id": "another", "staged": {}}')
    before = storage.everything()
    with pytest.raises(JobError, match="is there already"):
        publishing(storage)
    assert storage.everything() == before


@pytest.mark.parametrize("lost_at", range(1, 13))
def test_a_publishing_whose_lock_is_lost_between_two_moves_moves_no_more(tmp_path, lost_at):
    storage = LocalStorage(str(tmp_path / "lake"))
    write_tables(tmp_path / "lake", "old")
    write_tables(tmp_path / "lake" / staging_of(RUN_ID), "new")
    moves, move = [], storage.move

    def moved(old, new):
        move(old, new)
        moves.append(new)
        if len(moves) == lost_at:
            storage.write(LOCK, b'{"run_id": "second"}')

    storage.move = moved
    with Lock(storage, "first") as lock, pytest.raises(JobError, match="was taken over by run second"):
        publish(storage, RUN_ID, lock, {})
    assert len(moves) == lost_at
    storage.delete([LOCK])
    assert recovering(storage) == RUN_ID
    assert versions(storage.place) == dict.fromkeys(COLUMNS, "new")


@pytest.mark.parametrize("lost_at", range(1, 5))  # before the journal, behind it, all away, all there
def test_a_publishing_whose_lock_is_lost_on_s3_goes_no_further(fast_endpoint, tmp_path, lost_at):
    storage = staged_on_s3(fast_endpoint, f"lost-{lost_at}", tmp_path)
    checks = []

    def losing(check=Lock.check):
        checks.append(1)
        if len(checks) == lost_at:
            storage.write(LOCK, b'{"run_id": "second"}')
            storage.delete = storage.write = storage._copy = None  # not called any more
        check(lock)

    with Lock(storage, "first") as lock, pytest.raises(JobError, match="was taken over by run second"):
        lock.check = losing
        publish(storage, RUN_ID, lock, {})
    assert len(checks) == lost_at


def test_a_move_never_goes_into_what_is_there(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with pytest.raises(JobError, match="can't move .*/old to .*/new: it is there already"):
        LocalStorage(str(tmp_path)).move("old", "new")
    assert sorted(listing(tmp_path)) == ["new", "old"]


# ---- The same on S3 ----------------------------------------------------------------------------------------


def staged_on_s3(address, bucket, folder):
    """A storage with the old tables in their places, and the new ones staged."""
    write_tables(folder / "old", "old")
    write_tables(folder / "new", "new")
    client = client_of(address)
    put(client, bucket, {f"lake/{k}": v for k, v in listing(folder / "old").items() if v is not None})
    storage = storage_at(address, f"s3://{bucket}/lake")
    storage.upload(str(folder / "new"), staging_of(RUN_ID))
    return storage


S3_MOVES = ["before the journal", "the journal", "all away", "all there", "the journal removed"]


@pytest.mark.parametrize("point", S3_MOVES)
def test_killed_between_two_moves_on_s3_the_next_run_has_all_five(fast_endpoint, tmp_path, point):
    client, bucket = client_of(fast_endpoint), f"moves-{S3_MOVES.index(point)}"
    staged_on_s3(fast_endpoint, bucket, tmp_path)
    place = f"s3://{bucket}/lake"
    assert killed_at(point, lambda: publishing(storage_at(fast_endpoint, place)))
    found = versions(downloaded(client, bucket, "lake/", tmp_path / "between"))
    assert {"old", "new", None} >= set(found.values())
    recovering(storage_at(fast_endpoint, place))
    expected = "old" if point == "before the journal" else "new"
    after = {key: content for key, content in contents(client, bucket, "lake/").items() if "/_staging/" not in key}
    assert after == {f"lake/{k}": v for k, v in listing(tmp_path / expected).items() if v is not None}


@pytest.fixture
def staged(tmp_path):
    """A local staging of five tables and 10 partitions."""
    names = [f"{name}/part-0-new.parquet" for name in COLUMNS if name != "songs"]
    for name in [*names, *[f"songs/year={year}/part-0-new é.parquet" for year in range(10)]]:
        path = tmp_path / "staging" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        (path.parent / f".{path.name}.crc").write_text("no data")
    return tmp_path / "staging"


class Killed(BaseException):
    """What stands for the end of the process."""


# 14 uploads; the list of what is staged, the lock, whether there is a journal, the journal, which is read; 6 lists, the
# deletion, 14 copies, and so on.
@pytest.mark.parametrize("calls", [1, 14, 16, 17, 18, 19, 20, 26, 27, 28, 29, 37, 43, 44, 45, 46, 47])
def test_a_publishing_that_stops_after_any_call_is_completed_by_the_next(fast_endpoint, staged, calls):
    client, bucket = client_of(fast_endpoint), f"stopped-{calls}"
    put(client, bucket, {"lake/users/part-0-old.parquet": b"", "lake/_rejected/logs/a.json": b"", "lake/other": b"o"})
    old, left = contents(client, bucket), iter(range(calls))
    storage = storage_at(fast_endpoint, f"s3://{bucket}/lake")

    def count(**_):
        if next(left, None) is None:
            raise Killed

    lock = Lock(storage, RUN_ID)
    lock.check = lambda: storage.stored(LOCK)  # nobody takes it
    storage.client.meta.events.register("before-call.s3", count)
    with contextlib.suppress(Killed):
        storage.upload(str(staged), staging_of(RUN_ID))
        publish(storage, RUN_ID, lock, {})
    storage = storage_at(fast_endpoint, f"s3://{bucket}/lake")
    has_journal = read_journal(storage) is not None
    recovered = recovering(storage)
    new = {f"lake/{path.relative_to(staged).as_posix()}": path.read_bytes() for path in staged.rglob("*.parquet")}
    after = {key: content for key, content in contents(client, bucket).items() if "/_staging/" not in key}
    began = calls > 17  # the 18th puts the journal
    assert after == ({**new, "lake/other": b"o"} if began else old)
    assert recovered == (RUN_ID if has_journal else None)
    assert has_journal == (began and calls < 46)
    assert recovering(storage) is None


def counted(storage):
    """The list to which the calls of a storage are added."""
    calls = []
    storage.client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    return calls


def test_publishing_takes_few_requests_and_aborts_unfinished_uploads(s3, endpoint, staged):
    put(s3, "counted", {f"users/part-{number}.parquet": b"" for number in range(14)})
    for key in (f"_staging/{RUN_ID}/users/x.parquet", "theirs"):
        s3.create_multipart_upload(Bucket="counted", Key=key)
    for number in range(38):
        (staged / f"users/part-1-{number}.parquet").write_text("")
    storage = storage_at(endpoint, "s3://counted")
    calls = counted(storage)
    check_output("s3://elsewhere", storage)
    with Lock(storage, RUN_ID) as lock:
        move_by_journal(storage, lock)
        discard_old_staging(storage)
        storage.upload(str(staged), staging_of(RUN_ID))
        publish(storage, RUN_ID, lock, {})
        for table in COLUMNS:
            storage.list(table)
    print(len(calls), "requests for 52 files")
    assert len(calls) < 3 * 52
    assert calls.count("PutObject") + calls.count("CopyObject") <= 2 * 52 + 4
    assert [upload["Key"] for upload in s3.list_multipart_uploads(Bucket="counted")["Uploads"]] == ["theirs"]
    assert set(contents(s3, "counted")) == {path.relative_to(staged).as_posix() for path in staged.rglob("*.parquet")}


# ---- Recover -----------------------------------------------------------------------------------------------


def test_recover_on_s3_completes_and_says_so(fast_endpoint):
    client = client_of(fast_endpoint)
    objects = {"users/old.parquet": b"old", f"_staging/{RUN_ID}/users/new.parquet": b"new"}
    objects[JOURNAL] = json.dumps({"run_id": RUN_ID, "staged": {**dict.fromkeys(NAMES, 0), "users": 1}}).encode()
    objects[LOCK] = owner_of(os.getpid(), machine=["elsewhere"])
    put(client, "recover", objects)
    storage = storage_of("s3://recover", aws_of(fast_endpoint))
    completed = f"the lock of run {RUN_ID} released; finished publishing run {RUN_ID}, which was interrupted"
    for said in (completed, "nothing was interrupted"):
        assert recover_only(storage) == f"s3://recover: {said}"
        assert contents(client, "recover") == {"users/new.parquet": b"new"}


def test_recover_on_this_machine_completes_and_says_so(tmp_path):
    storage = LocalStorage(str(tmp_path / "lake"))
    for name in ("users/old.parquet", f"_staging/{RUN_ID}/users/new.parquet"):
        storage.write(name, name.encode())
    storage.write(JOURNAL, json.dumps({"run_id": RUN_ID, "staged": {n: int(n == "users") for n in NAMES}}).encode())
    storage.write(LOCK, owner_of(os.getpid(), pid=2**22 + 1))
    completed = f"the lock of dead run {RUN_ID} released; finished publishing run {RUN_ID}"
    for said in (completed, "nothing was interrupted"):
        assert said in recover_only(storage)
        assert sorted(listing(tmp_path / "lake")) == ["users", "users/new.parquet"]


def test_recover_where_nothing_is_changes_nothing(tmp_path, fast_endpoint):
    client = client_of(fast_endpoint)
    put(client, "misspelt", {"lake/users/a.parquet": b"a"})
    with pytest.raises(UsageError, match="there is nothing in s3://misspelt/late: name the --output of a run"):
        recover_only(storage_of("s3://misspelt/late", aws_of(fast_endpoint)))
    assert list(contents(client, "misspelt")) == ["lake/users/a.parquet"]
    with pytest.raises(PlaceError, match="there is no such folder"):
        recover_only(LocalStorage(str(tmp_path / "none")))
    assert listing(tmp_path) == {}


def test_recover_beside_a_living_run_is_refused_and_names_the_process(tmp_path, sleeping):  # noqa: F811
    storage = LocalStorage(str(tmp_path / "lake"))
    storage.write(JOURNAL, json.dumps(STAGED).encode())
    storage.write(LOCK, owner_of(sleeping))
    before = listing(tmp_path)
    with pytest.raises(UsageError, match=f"process {sleeping} on box"):
        recover_only(storage)
    assert listing(tmp_path) == before


# ---- Old staging -------------------------------------------------------------------------------------------


def run_id_of(days, tail="0a1b2c3d"):
    return time.strftime(RUN_TIME, time.gmtime(time.time() - days * 86400)) + f"-{tail}"


OLD = [run_id_of(7.01), run_id_of(400)]
KEPT = [run_id_of(6.99), run_id_of(0), f"{OLD[0]}0", f"x{OLD[0]}", OLD[0][:-1], OLD[0].upper(), "theirs", "2020"]


def removed(capsys):
    """The runs of which was said that what they left is removed."""
    return re.findall("^removed what run (.*) left in .*/_staging$", capsys.readouterr().err, re.MULTILINE)


def test_staging_older_than_a_week_is_removed_and_nothing_else(tmp_path, capsys):
    for name in [*OLD, *KEPT]:
        (tmp_path / "lake/_staging" / name / "users").mkdir(parents=True)
        (tmp_path / "lake/_staging" / name / "users/a.parquet").write_text(name)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/a").write_text("a")
    (tmp_path / "lake/_staging" / OLD[0] / "link").symlink_to(tmp_path / "precious")
    discard_old_staging(LocalStorage(str(tmp_path / "lake")))
    assert removed(capsys) == sorted(OLD)
    assert sorted(path.name for path in (tmp_path / "lake/_staging").iterdir()) == sorted(KEPT)
    assert (tmp_path / "precious/a").read_text() == "a"
    discard_old_staging(LocalStorage(str(tmp_path / "nowhere")))
    assert removed(capsys) == []


def test_staging_that_cannot_be_removed_stays_is_not_said_to_be_gone_and_keeps_no_other(capsys):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        for name in OLD[:2]:
            os.makedirs(f"{folder}/_staging/{name}/users/year=1")
        kept, gone = sorted(OLD[:2])
        os.chmod(f"{folder}/_staging/{kept}/users", 0o555)
        for path in (folder, f"{folder}/_staging", f"{folder}/_staging/{gone}", f"{folder}/_staging/{gone}/users"):
            os.chmod(path, 0o777)
        if user == 0:
            os.seteuid(65534)
        try:
            discard_old_staging(LocalStorage(folder))
        finally:
            os.seteuid(user)
        assert removed(capsys) == [gone]
        assert os.listdir(f"{folder}/_staging") == [kept]
        os.chmod(f"{folder}/_staging/{kept}/users", 0o777)


def test_staging_older_than_a_week_is_removed_on_s3(fast_endpoint, capsys):
    client = client_of(fast_endpoint)
    for name in [*OLD, *KEPT]:
        client.put_object(Bucket="week", Key=f"lake/_staging/{name}/users/a.parquet", Body=b"")
    client.put_object(Bucket="week", Key="lake/users/a.parquet", Body=b"")
    discard_old_staging(storage_at(fast_endpoint, "s3://week/lake"))
    assert removed(capsys) == sorted(OLD)
    left = {f"lake/_staging/{name}/users/a.parquet" for name in KEPT}
    assert set(contents(client, "week")) == {*left, "lake/users/a.parquet"}


def test_what_was_never_uploaded_to_its_end_is_removed_after_a_week(s3, endpoint, capsys):
    put(s3, "uploads", {})
    for name in (OLD[0], KEPT[0], "theirs"):
        s3.create_multipart_upload(Bucket="uploads", Key=f"_staging/{name}/users/a.parquet")
    discard_old_staging(storage_at(endpoint, "s3://uploads"))
    assert removed(capsys) == [OLD[0]]
    left = {upload["Key"] for upload in s3.list_multipart_uploads(Bucket="uploads")["Uploads"]}
    assert left == {f"_staging/{name}/users/a.parquet" for name in (KEPT[0], "theirs")}


# ---- Where the output may lie ------------------------------------------------------------------------------


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    """The place in which input and output are, empty."""
    if request.param == "local":
        return str(tmp_path / "b")
    address = request.getfixturevalue("fast_endpoint")
    bucket = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    client_of(address).create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


def checked(request, source, output, report=None):
    aws = aws_of(request.getfixturevalue("fast_endpoint")) if output.startswith("s3:") else {}
    check_output(source, storage_of(output, aws), report)


@pytest.mark.parametrize(
    ("source", "output"),
    [("", ""), ("", "/lake"), ("/in", ""), ("/in", "/in"), ("/in", "/in/lake"), ("/in", "/out"), ("/in", "/input")],
)
def test_input_and_output_may_share_a_place(request, root, source, output):
    checked(request, root + source, root + output)


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("", "/song_data", "lies in song_data of the input"),
        ("/in", "/in/deep/log-data/lake", "lies in log-data of the input"),
        ("/lake/songs", "/lake", "lies in .*/lake/songs, which a run replaces"),
        ("/lake/_staging/x", "/lake", "lies in .*/lake/_staging, which a run replaces"),
        ("/lake/_rejected", "/lake", "lies in .*/lake/_rejected, which a run replaces"),
        ("/users/in", "", "lies in .*/users, which a run replaces"),
    ],
)
def test_tables_in_folders_of_data_and_data_in_folders_of_tables_are_refused(request, root, source, output, said):
    with pytest.raises(UsageError, match=said) as error:
        checked(request, root + source, root + output)
    assert "--output" in str(error.value)


def test_links_are_followed_before_they_are_compared(tmp_path):
    (tmp_path / "in/log_data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in/log_data")
    with pytest.raises(UsageError, match="lies in log_data"):
        check_output(str(tmp_path / "in"), LocalStorage(str(tmp_path / "link/lake")))


def test_a_link_in_the_place_of_a_folder_of_data_is_one(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/log_data").symlink_to(tmp_path / "logs")
    with pytest.raises(UsageError, match="lies in log_data"):
        check_output(str(tmp_path / "in"), LocalStorage(str(tmp_path / "in/log_data/lake")))


@pytest.mark.parametrize("foreign", ["photos.txt", "2018/x.parquet", "city=x/y.parquet", "song_data/A/a.json", "mine/"])
def test_what_is_none_of_a_tables_in_its_place_is_refused(request, root, foreign):
    storage = storage_of(root, aws_of(request.getfixturevalue("fast_endpoint")) if root.startswith("s3:") else {})
    name = f"lake/users/{foreign}"
    if foreign.endswith("/") and not root.startswith("s3:"):
        os.makedirs(storage.path(name))
    else:
        storage.write(name, b"precious")
    before = storage.everything()
    with pytest.raises(UsageError, match=f"{foreign} is not of the table users"):
        checked(request, f"{root}/in", f"{root}/lake")
    assert storage.everything() == before


def test_a_table_s_place_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake/users").write_text("precious")
    with pytest.raises(PlaceError, match="lake/users: Not a directory"):
        check_output(str(tmp_path / "in"), LocalStorage(str(tmp_path / "lake")))


def test_reports_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "lake/file").mkdir(parents=True)
    (tmp_path / "x").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for report, said in (
        ("lake/file", "is no file"),
        ("pipe", "is no file"),
        ("new/report.json", "there is no folder .*/new: make it first"),
        ("x/report.json", "there is no folder .*/x: make it first"),
        ("s3://reports", "is a bucket"),
        ("lake/songs/report.json", "lies in .*/lake/songs: name another"),
        ("lake/_journal.json", "lies in .*/lake/_journal.json: name another"),
    ):
        report = report if report.startswith("s3:") else str(tmp_path / report)
        with pytest.raises(UsageError, match=said):
            check_output(str(tmp_path / "in"), LocalStorage(str(tmp_path / "lake")), report)


def test_a_report_on_s3_is_not_among_the_tables_and_its_bucket_is_there(endpoint):
    aws = aws_of(endpoint)
    storage = storage_of("s3://reported/lake", aws)
    client_of(endpoint).create_bucket(Bucket="reported")
    for report in ("s3://reported/new/report.json", "s3://reported/lake/_reports/1.json"):  # the latter is --emr's
        check_output("s3://reported/in", storage, report, aws)
    with pytest.raises(UsageError, match="report.json lies in s3://reported/lake/users: name another"):
        check_output("s3://reported/in", storage, "s3://reported/lake/users/report.json", aws)
    with pytest.raises(PlaceError, match="NoSuchBucket"):
        check_output("s3://reported/in", storage, "s3://no-such-reports/report.json", aws)


OF_OTHERS = [(0o755, 0o777)]  # what the others may do with a table, and with the folder of the tables
if os.geteuid() == 0:  # else there are no others
    OF_OTHERS += [(0o777, 0o1777)]


@pytest.mark.parametrize(("table", "above"), OF_OTHERS)
def test_tables_that_a_user_may_not_move_are_refused_before_anything_is_begun(table, above):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(folder)
        os.mkdir(f"{folder}/songs")
        os.chmod(f"{folder}/songs", table if user == 0 else 0o555)
        os.chmod(folder, above)
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(UsageError, match="/songs is another user's, or a mount point, .*`chmod g.w "):
                check_output("in", storage)
        finally:
            os.seteuid(user)
        os.chmod(f"{folder}/songs", 0o777)
        check_output("in", storage)


# ---- Before Spark, and --recover -------------------------------------------------------------------------


@pytest.fixture
def without_spark(tmp_path, monkeypatch, capsys):
    """Call main where it must not start Spark; gives (status, standard output, last line of standard error)."""
    monkeypatch.setattr(session, "spark_session", lambda *_, **__: pytest.fail("Spark is started"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status = etl.main(list(arguments))
        said = capsys.readouterr()
        return status, said.out, ([""] + said.err.splitlines())[-1]

    return call


@pytest.mark.parametrize("arguments", [["--input", "in"], ["--recover"]])
def test_beside_a_living_run_nothing_is_begun_and_its_process_is_named(tmp_path, without_spark, sleeping, arguments):  # noqa: F811
    write_input(tmp_path / "in", [song()], [event()])
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / LOCK).write_bytes(owner_of(sleeping))
    before = listing(tmp_path)
    status, _, line = without_spark(*arguments, "--output", "lake")
    assert status == 2
    assert line.startswith("etl.py: ")
    assert f"process {sleeping} on box" in line
    assert listing(tmp_path) == before


def test_recover_without_an_output_is_refused(tmp_path, without_spark):
    status, _, line = without_spark("--recover", "--output", str(tmp_path / "none"))
    assert (status, line.startswith(f"etl.py: {tmp_path}/none: there is no such folder")) == (2, True)


def test_recover_of_an_output_without_a_journal_changes_nothing(tmp_path, without_spark):
    (tmp_path / "lake/users").mkdir(parents=True)
    (tmp_path / "lake/users/a.parquet").write_text("a")
    before = listing(tmp_path)
    assert without_spark("--recover", "--output", "lake") == (
        0,
        f"etl.py: {tmp_path}/lake: nothing was interrupted\n",
        "",
    )
    assert listing(tmp_path) == before
