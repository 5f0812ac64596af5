"""Nothing lost: what the output holds after a run is killed, or its disk, its S3 or an executor fails.

README.md in this folder lists the faults. An analyst who reads the tables after one finds the old ones or the new ones;
after the next run all five are new.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import oracle
import pytest
from dirty import event, song, write_input
from proxy import Proxy
from tables import COLUMNS, ETL, assert_tables, environment, is_hidden, listing, run_etl
from test_s3 import aws_of, client_of, contents, downloaded, fast_endpoint, put, serving, write_config  # noqa: F401

import etl

RUN_ID = "20260101T000000Z-00000000"
NAMES = [*COLUMNS, "_rejected"]


# ---- Two inputs whose five tables differ -------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """[(folder, what the oracle makes of it)], two of them."""
    folder, found = tmp_path_factory.mktemp("inputs"), []
    for number in range(2):
        songs = [song(song_id=f"S{number}{n}", artist_id=f"A{number}{n}", title=f"T{n}", year=n) for n in range(3)]
        plays = [
            event(
                userId=str(n % 4 + number), itemInSession=n, ts=1541105830796 + n * 864_000_000 + number, song=f"T{n}"
            )
            for n in range(8)
        ]
        source = write_input(folder / str(number), songs, [*plays, plays[0], event(page="Home")])
        found.append((source, oracle.five_tables(source)))
    return found


@pytest.fixture(scope="module")
def first_tables(inputs, tmp_path_factory):
    """The tables of the first input."""
    folder = tmp_path_factory.mktemp("first")
    process = run_etl("--input", inputs[0][0], "--output", "lake", cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder / "lake"


@pytest.fixture
def lake(first_tables, tmp_path):
    """A folder with lake/, a copy of them."""
    shutil.copytree(first_tables, tmp_path / "lake")
    return tmp_path


def visible(folder):
    return listing(folder, hidden=False)


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
        os.environ["SPARKIFY_ETL_PAUSE"] = point
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
    output, staging = tmp_path / "lake", tmp_path / "lake/_staging" / RUN_ID
    write_tables(output, "old")
    write_tables(staging, "new")
    assert killed_at(point, lambda: etl.Output(str(output)).publish(RUN_ID))
    found = versions(output)
    assert list(found.values()).count(None) <= 1
    assert {"old", "new", None} >= set(found.values())
    if 0 < MOVES.index(point) < MOVES.index("users there"):  # recovering may be killed as well
        assert killed_at("users there", lambda: etl.Output(str(output)).recover())
    done = etl.Output(str(output)).recover()
    expected = "old" if point == "before the journal" else "new"
    assert versions(output) == dict.fromkeys(COLUMNS, expected)
    assert listing(output / "_rejected") == {f"{expected}.json": expected.encode()}
    assert done == (None if point in ("before the journal", "the journal removed") else RUN_ID)
    assert etl.Output(str(output)).recover() is None


def test_a_journal_whose_staging_is_gone_moves_nothing(tmp_path):
    write_tables(tmp_path / "lake", "old")
    (tmp_path / "lake" / etl.JOURNAL).write_text(json.dumps({"run_id": RUN_ID, "staged": dict.fromkeys(NAMES, True)}))
    before = listing(tmp_path)
    with pytest.raises(etl.JobError, match=f"{RUN_ID} is gone"):
        etl.Output(str(tmp_path / "lake")).recover()
    assert listing(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"run_id'])
def test_a_damaged_journal_is_one_line_and_moves_nothing(tmp_path, text):
    write_tables(tmp_path / "lake", "old")
    (tmp_path / "lake" / etl.JOURNAL).write_text(text)
    before = listing(tmp_path)
    with pytest.raises(etl.JobError, match="is damaged"):
        etl.Output(str(tmp_path / "lake")).recover()
    assert listing(tmp_path) == before


def test_a_publishing_whose_lock_is_lost_between_two_moves_moves_no_more(tmp_path):
    output = etl.Output(str(tmp_path / "lake"))
    write_tables(tmp_path / "lake", "old")
    write_tables(tmp_path / "lake/_staging" / RUN_ID, "new")
    lock = output.lock = etl.Lock(str(tmp_path / "lake"), "first")
    checks = []

    def check():
        checks.append(len(checks))
        if len(checks) == 4:  # before the journal, and before each of two tables
            (tmp_path / "lake" / etl.LOCK).write_text('{"run_id": "second"}')
        etl.Lock.check(lock)

    lock.check = check
    with lock, pytest.raises(etl.JobError, match="was taken over by run second"):
        output.publish(RUN_ID)
    assert set(versions(tmp_path / "lake").values()) == {"old", "new"}
    output.lock = None
    output.recover()
    assert versions(tmp_path / "lake") == dict.fromkeys(COLUMNS, "new")


def test_a_move_never_goes_into_what_is_there(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with pytest.raises(etl.JobError, match="can't move"):
        etl.Output(str(tmp_path)).move(str(tmp_path / "old"), str(tmp_path / "new"))
    assert sorted(listing(tmp_path)) == ["new", "old"]


S3_MOVES = ["before the journal", "the journal", "all away", *[f"{name} there" for name in NAMES], "all there"]
S3_MOVES += ["the journal removed"]


@pytest.mark.parametrize("point", S3_MOVES)
def test_killed_between_two_moves_on_s3_the_next_run_has_all_five(fast_endpoint, tmp_path, point):  # noqa: F811
    s3, bucket = client_of(fast_endpoint), f"moves-{S3_MOVES.index(point)}"
    write_tables(tmp_path / "old", "old")
    write_tables(tmp_path / "new", "new")
    put(s3, bucket, {f"lake/{k}": v for k, v in listing(tmp_path / "old").items() if v is not None})
    place = f"s3://{bucket}/lake"

    def output():
        return etl.S3Output(place, etl.aws_client(aws_of(fast_endpoint), "s3"))

    output().upload(str(tmp_path / "new"), RUN_ID)
    assert killed_at(point, lambda: output().publish(RUN_ID))
    found = versions(downloaded(s3, bucket, "lake/", tmp_path / "between"))
    assert {"old", "new", None} >= set(found.values())
    output().recover()
    expected = "old" if point == "before the journal" else "new"
    after = {key: content for key, content in contents(s3, bucket, "lake/").items() if "/_staging/" not in key}
    assert after == {f"lake/{k}": v for k, v in listing(tmp_path / expected).items() if v is not None}


# ---- Killed anywhere in a run ------------------------------------------------------------------------------

# Songs and artists begin together, and so do the other three tables. A step begins where another ends. The instants
# between the moves have a test of their own, above.
STEPS = ["find input", "start Spark", "plan", "read songs", "read logs", "write songs", "write songplays", "audit"]
STEPS += ["publish"]
INSTANTS = [f"{step} begins" for step in STEPS] + ["before the journal", "the journal", "publish ends"]
S3_INSTANTS = ["before the journal", "all away"]


def kill_run(point, *arguments, cwd):
    """Run etl.py in a process group of its own, and kill -9 all of it where it pauses."""
    process = subprocess.Popen(
        [sys.executable, str(ETL), *map(str, arguments)],
        cwd=cwd,
        env=environment(SPARKIFY_ETL_PAUSE=point, TMPDIR=str(cwd), AWS_EC2_METADATA_DISABLED="true"),
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


@pytest.mark.long
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
    assert {path.name for path in (lake / "lake").iterdir()} <= {*COLUMNS, "_staging"}


@pytest.mark.long
def test_killed_at_any_instant_of_a_run_nothing_is_lost_on_s3(inputs, lake, fast_endpoint):  # noqa: F811
    s3, (now, other) = client_of(fast_endpoint), inputs
    put(s3, "killed", {f"lake/{k}": v for k, v in visible(lake / "lake").items() if v is not None})
    write_config(lake, fast_endpoint)
    for instant in S3_INSTANTS:
        kill_run(instant, "--input", other[0], "--output", "s3://killed/lake", cwd=lake)
        if instant != "all away":
            assert_tables(downloaded(s3, "killed", "lake/", lake / instant), now[1])
    process = run_etl("--input", now[0], "--output", "s3://killed/lake", cwd=lake)
    assert process.returncode == 0, process.stderr
    assert "completed the publishing" in process.stderr
    assert_tables(downloaded(s3, "killed", "lake/", lake / "after"), now[1])
    assert [key for key in contents(s3, "killed", "lake/") if is_hidden(key) and "/_staging/" not in key] == []


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


@pytest.mark.long
@pytest.mark.parametrize("left", [8, 24])
def test_a_full_disk_leaves_the_old_tables(inputs, lake, left):
    fill = "dd if=/dev/zero of=disk/filling bs=1k 2>/dev/null; "
    fill += f"truncate -s $(( $(stat -c %s disk/filling) - {left * 1024} )) disk/filling"
    assert "No space left on device" in on_a_disk(lake, fill, inputs[1][0])


@pytest.mark.long
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
def faulty(fast_endpoint, inputs, lake, run_here):  # noqa: F811
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


@pytest.mark.long
@pytest.mark.parametrize("code", [500, 503])
def test_of_requests_to_s3_5_in_100_are_refused_and_the_run_ends_right(faulty, code):
    status, line, requests = faulty(lambda number, *_: code if number % 20 == 3 else None)
    assert (status, requests > 40) == (0, True), line


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize("begins", [10, 25, 40])
def test_s3_that_is_gone_for_five_seconds_loses_nothing(faulty, begins):
    since = []

    def fault(number, *_):
        if number >= begins and not since:
            since.append(time.monotonic())
        return "down" if since and time.monotonic() - since[0] < 5 else None

    faulty(fault)
    assert since


@pytest.mark.long
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_s3_that_never_comes_back_leaves_the_old_tables(faulty, method):
    gone = []

    def fault(number, asked, path):
        if asked == method and ("part-" in path or "delete" in path):
            gone.append(number)
        return "down" if gone else None

    status, line, _ = faulty(fault)
    assert (status, "ENDPOINT_URL" in line) == (1, True), line


# ---- An audit that fails ---------------------------------------------------------------------------------


def copy_of_a_file(staging):
    """users, every row twice"""
    for path in list((staging / "users").glob("*.parquet")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))


def without_a_row(name, key):
    def tamper(staging):
        for path in list((staging / name).rglob("*.parquet")):
            rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}', hive_partitioning = false)")
            if key in str(rows.fetchall()):
                rows.filter(f"{TABLE_KEYS[name]} <> '{key}'").write_parquet(f"{path}.new")
                os.replace(f"{path}.new", path)

    return tamper


def another_month(staging):
    """songplays, one partition under the name of another"""
    for path in sorted((staging / "songplays").glob("year=*/month=*"))[:1]:
        path.rename(path.with_name("month=7"))


def without_a_file(name):
    def tamper(staging):
        next((staging / name).rglob("*.parquet")).unlink()

    return tamper


def with_a_row(name, key, value):
    def tamper(staging):
        path = next((staging / name).rglob("*.parquet"))
        rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}', hive_partitioning = false) LIMIT 1")
        rows.project(f"* REPLACE ({value}::BIGINT AS {key})").write_parquet(f"{path.parent}/more.parquet")

    return tamper


TABLE_KEYS = {"users": "user_id", "songs": "song_id", "artists": "artist_id"}
TAMPERED = {
    "songplays, a file gone": (without_a_file("songplays"), "all that is referred to is there"),
    "songplays, a row more": (with_a_row("songplays", "songplay_id", 99), "all that is there is referred to"),
    "songplays, no key": (with_a_row("songplays", "songplay_id", "NULL"), "the key is not null"),
    "songs, a file gone": (without_a_file("songs"), "all that is referred to is there"),
    "time, a file gone": (without_a_file("time"), "all that is referred to is there"),
    "users, a row more": (with_a_row("users", "user_id", 99), "all that is there is referred to"),
    "users, no key": (with_a_row("users", "user_id", "NULL"), "the key is not null"),
    "users, twice": (copy_of_a_file, "the key is unique"),
    "users of songplays": (without_a_row("users", "2"), "all that is referred to is there"),
    "songs of songplays": (without_a_row("songs", "S11"), "all that is referred to is there"),
    "artists of songplays": (without_a_row("artists", "A11"), "all that is referred to is there"),
    "songplays, another month": (another_month, "year and month are those of start_time"),
}


@pytest.fixture(scope="module")
def staged(spark, inputs, tmp_path_factory):
    """(folder, records, their counts) of what a run on the second input stages."""
    folder, source = str(tmp_path_factory.mktemp("staged")), str(inputs[1][0])
    songs = etl.song_records(etl.read_songs(spark, etl.find_files(source, "song"))).cache()
    events = etl.event_records(etl.read_lines(spark, etl.find_files(source, "log"))).cache()
    counts = etl.process_song_data(spark, songs, folder), etl.process_log_data(spark, events, songs, folder)
    return folder, (songs, events), counts


def audited(spark, staged, folder):
    _, records, counts = staged
    return etl.audit_run(spark, str(folder), records, *map(dict, counts))


# The ways of comparing keys, by what FEW_ROWS and BROADCAST_ROWS are: lists, counted by Spark, gathered as arrays.
WAYS = {"lists": (100, 100), "counted": (0, 100), "arrays": (0, 0)}


def compare_by(way, monkeypatch):
    for bound, rows in zip(("FEW_ROWS", "BROADCAST_ROWS"), WAYS[way]):
        monkeypatch.setattr(etl, bound, rows)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_staged_as_it_should_be_passes_the_audit(spark, staged, inputs, monkeypatch, way):
    compare_by(way, monkeypatch)
    rows, matched = audited(spark, staged, staged[0])
    assert rows == {name: len(inputs[1][1][name]) for name in COLUMNS}
    assert matched == inputs[1][1]["report"]["matched_plays"]


# Each of the ways finds each rule broken, and one or the other each of these faults.
ALL_WAYS = (
    *("songplays, a file gone", "songplays, a row more", "songplays, no key", "songplays, another month"),
    *("users, a row more", "users, no key", "users, twice"),
)


@pytest.mark.parametrize(
    ("what", "way"),
    [
        (what, way)
        for number, what in enumerate(TAMPERED)
        for way in (WAYS if what in ALL_WAYS else [list(WAYS)[number % len(WAYS)]])
    ],
)
def test_what_was_staged_and_is_wrong_fails_the_audit(spark, staged, tmp_path, monkeypatch, what, way):
    tamper, rule = TAMPERED[what]
    shutil.copytree(staged[0], tmp_path / "run")
    tamper(tmp_path / "run")
    compare_by(way, monkeypatch)
    with pytest.raises(etl.JobError) as error:
        audited(spark, staged, tmp_path / "run")
    name = re.match("[a-z]+", what)[0]
    assert re.match(rf"the audit failed: {name}: \d times not «{rule}», as for ", str(error.value))


@pytest.mark.parametrize("way", WAYS)
def test_plays_kept_as_often_as_they_are_there_fail_the_audit(spark, staged, inputs, tmp_path, monkeypatch, way):
    """Then songplays has as many rows as there are plays, and the same exclusive or of its ids."""
    folder, (songs, events), _ = staged
    shutil.copytree(folder, tmp_path / "run")
    for path in list((tmp_path / "run/songplays").rglob("*.parquet")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    compare_by(way, monkeypatch)
    ids = [2 * len(inputs[1][1]["songplays"]), 0]
    with pytest.raises(etl.JobError, match="songplays: .* not «the key is unique»"):
        etl.audit(spark, str(tmp_path / "run"), songs, events.union(events), ids[0], ids)


def test_a_failed_audit_publishes_nothing_and_keeps_what_was_staged(inputs, lake, run_here, monkeypatch):
    audit = etl.audit

    def tampered(spark, staging, *more):
        without_a_file("songplays")(Path(staging))
        return audit(spark, staging, *more)

    monkeypatch.setattr(etl, "audit", tampered)
    before = visible(lake / "lake")
    status, line = run_here("--input", inputs[1][0], "--output", "lake")
    assert status == 1
    assert line.startswith("etl.py: the audit failed: songplays")
    kept = Path(re.search(r"(/\S+/_staging/[^/\s]+)", line).group(1))
    assert {path.name for path in kept.iterdir()} >= set(COLUMNS)
    assert visible(lake / "lake") == before


def test_records_that_are_missing_in_what_was_staged_are_noticed(inputs, lake, run_here, monkeypatch):
    (lake / "in/log_data").mkdir(parents=True)
    (lake / "in/log_data/a.json").write_text("{\n")
    shutil.copytree(inputs[1][0] / "song_data", lake / "in/song_data")
    audit = etl.audit

    def tampered(spark, staging, *more):
        shutil.rmtree(f"{staging}/_rejected")
        return audit(spark, staging, *more)

    monkeypatch.setattr(etl, "audit", tampered)
    before = visible(lake / "lake")
    status, line = run_here("--input", "in", "--output", "lake", "--max-rejected", "1")
    assert status == 1
    assert "1 log records are not" in line
    assert visible(lake / "lake") == before
