"""etl.py run as a user runs it, in a process of its own, held against the oracle row by row.

A run takes some seconds, so the tests share most of them: the sample from an empty folder; again onto that output, in
another zone; every kind of dirt in zips.
"""

import contextlib
import json
import random
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import dirty
import duckdb
import oracle
import pytest
from tables import COLUMNS, ROOT, assert_rows, assert_tables, environment, is_hidden, listing, run_etl, until

NOISE = re.compile(r"\b(WARN|ERROR|FATAL)\b|Traceback|Exception|^\s+at [\w.$/]+\(|^\s+File ", re.MULTILINE)


class Run(NamedTuple):
    """A finished run: the process, the folder it ran in, its output, its report and what the oracle says."""

    process: subprocess.CompletedProcess
    folder: Path
    output: Path
    report: dict
    expected: dict


def done(folder, *arguments, source, expected, output="output", **options):
    """Run etl.py in folder and give the Run; a failed one fails the test with what it said."""
    process = run_etl(*arguments, cwd=folder, **options)
    if process.returncode:
        said = [line for line in process.stderr.splitlines() if " INFO " not in line]
        pytest.fail("\n".join([f"exit status {process.returncode}", *said[-40:]]), pytrace=False)
    report = json.loads((folder / "report.json").read_text())
    return Run(process, folder, folder / output, report, expected or oracle.five_tables(source))


def summary_rows(stdout):
    """{name: number of rows} of the table that ends standard output."""
    lines = stdout[stdout.index("table  ") :].splitlines()[1:]
    rows = Counter()  # a line for each kind of rejected records
    for name, number, *_ in map(str.split, lines):
        rows[name] += int(number.replace(",", ""))
    return rows


def assert_summary(run):
    """Standard output ends with the numbers of rows of the tables and of the rejected records."""
    rows = {name: len(run.expected[name]) for name in COLUMNS}
    assert summary_rows(run.process.stdout) == {**rows, "rejected": len(run.expected["rejected"])}


def assert_report(run):
    """The report has the promised structure, the oracle's counts, and the files and bytes that lie in the output."""
    report, expected = run.report, run.expected["report"]
    assert list(report) == ["run_id", "seconds", "steps", "input", "tables", "matched_plays"]
    assert isinstance(report["run_id"], str)
    assert report["run_id"]
    assert 0 < max(report["steps"].values()) <= report["seconds"]
    for counts in report["input"].values():
        assert sum(counts.pop("reasons").values()) == counts["rejected"]
    assert report["input"] == expected["input"]
    assert report["matched_plays"] == expected["matched_plays"]
    logs = report["input"]["logs"]
    assert logs["records"] == logs["plays"] + logs["duplicates"] + logs["not_plays"] + logs["rejected"]
    assert list(report["tables"]) == list(COLUMNS)
    for name, table in report["tables"].items():
        files = [content for content in listing(run.output / name, hidden=False).values() if content is not None]
        assert run.folder / table.pop("path") == run.output / name
        expected_table = {"rows": len(run.expected[name]), "files": len(files), "bytes": sum(map(len, files))}
        assert (name, table) == (name, expected_table)


def rejected_records(output):
    """[(kind, source, reason, raw)] of what lies in _rejected."""
    return [
        (path.parent.name, record["source"], record["reason"], record["raw"])
        for path in sorted((output / "_rejected").rglob("*.json"))
        for record in map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1])
    ]


def assert_rejected(run):
    """The rejected records are the oracle's, each with source and reason; blanks around a song's text may be gone."""

    def comparable(records):
        return sorted((kind, raw.strip("\ufeff \t\r\n") if kind == "songs" else raw) for kind, raw in records)

    found = rejected_records(run.output)
    assert_rows(comparable((kind, raw) for kind, _, _, raw in found), comparable(run.expected["rejected"]), "rejected")
    assert all(source and reason for _, source, reason, _ in found)
    assert {kind: {source.endswith(".json") for k, source, *_ in found if k == kind} for kind in ("songs", "logs")} == {
        "songs": {True},
        "logs": {True},
    }


# ---- The sample ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_expected():
    return oracle.five_tables(ROOT / "data")


@pytest.fixture(scope="module")
def sample(sample_run, sample_expected):
    """`python etl.py` in an empty folder."""
    process = subprocess.CompletedProcess("etl.py", 0, *json.loads((sample_run / "said.json").read_text()))
    folder = sample_run / "work"
    return Run(process, folder, folder / "output", None, sample_expected)


def test_the_sample_gives_the_oracles_tables(sample):
    assert_tables(sample.output, sample.expected)


def test_standard_output_ends_with_the_summary(sample):
    assert_summary(sample)
    header, *lines = sample.process.stdout.rstrip("\n").splitlines()[-7:]
    assert header.split() == ["table", "rows", "files", "MB", "where"]
    assert [line.split()[-1] for line in lines[:5]] == [f"output/{name}" for name in COLUMNS]


def test_standard_error_has_progress_and_no_noise(sample):
    assert sample.process.stderr.strip()
    assert not NOISE.findall(sample.process.stderr), sample.process.stderr
    assert not NOISE.findall(sample.process.stdout), sample.process.stdout


def test_nothing_but_the_five_tables_is_left(sample):
    assert [path.name for path in sample.folder.iterdir()] == ["output"]
    left = listing(sample.output)
    assert {name.split("/")[0] for name in left if not is_hidden(name)} == set(COLUMNS)
    assert [name for name in left if name.endswith((".crc", "_SUCCESS")) or name.startswith("_staging")] == []
    files = [name for name, content in left.items() if content is not None and not is_hidden(name)]
    assert [name for name in files if not name.endswith(".parquet")] == []


def test_a_partition_is_one_file_while_it_is_small(sample):
    files = [name for name, content in listing(sample.output).items() if content is not None]
    assert len({str(Path(name).parent) for name in files}) == len(files)


def test_songs_are_sorted_by_artist_inside_a_file(sample):
    files = sorted((sample.output / "songs").rglob("*.parquet"))
    with duckdb.connect() as con:
        for path in files:
            sql = "SELECT artist_id FROM read_parquet(?, hive_partitioning = false, file_row_number = true) ORDER BY "
            artists = [artist for (artist,) in con.execute(f"{sql} file_row_number", [str(path)]).fetchall()]
            assert artists == sorted(artists)
    assert files


# ---- The same again --------------------------------------------------------------------------------------


def javas(temporary):
    """The command lines of the Javas whose files are in a folder."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            commands.append(path.read_bytes())
    return [command for command in commands if f"java.io.tmpdir={temporary}".encode() in command]


def test_a_rerun_in_another_zone_gives_the_same_tables_and_a_report(sample, tmp_path):
    """Java ends behind it, and the folder of its files is gone."""
    shutil.copytree(sample.output, tmp_path / "output")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run = done(
        tmp_path,
        *("--report", "report.json"),
        source=None,
        expected=sample.expected,
        env=environment(TZ="America/New_York", TMPDIR=str(temporary)),
    )
    until(lambda: not javas(temporary), 10)
    assert not list(temporary.glob("sparkify-etl-*"))
    assert_tables(run.output, run.expected)
    assert_report(run)
    assert {name.split("/")[0] for name in listing(run.output, hidden=False)} == set(COLUMNS)
    assert not list(run.output.glob("_staging*"))


# ---- Dirty -----------------------------------------------------------------------------------------------


def write_zip(folder, name, files):
    """A zip of {path: bytes} with the junk that file managers add."""
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        some = next(iter(files))
        for junk in (f"__MACOSX/{some}", "_x/y.json", ".z.json", "notes.txt"):
            archive.writestr(junk, files[some])
        archive.writestr("a folder.json/", b"")


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """Every kind of dirt there is, once, in the two zips; with an earlier output that had rejected records."""
    folder = tmp_path_factory.mktemp("every-kind")
    rng = random.Random(1)
    events = []
    for kinds in dirty.EVENT_KINDS.values():
        events += [make(dirty.event(sessionId=len(events) + n), rng) for n, make in enumerate(kinds.values())]
    lines = events + [dirty.dump(dirty.event(userId=str(number), level="free")) for number in range(20)]
    shuffled = random.Random(2).sample(lines, len(lines))
    marked = b"\xef\xbb\xbf" + b"\r\n".join([dirty.dump(dirty.event()), *shuffled[100:], b""])
    logs = {
        "a/log_data/2018/11/one.json": b"\n".join(shuffled[:100]),
        "a/log_data/2018/11/two.json": marked,
        "empty.json": b"",
        "blank.json": b"\n\r\n",
    }
    catalogue = {}
    for effect, kinds in dirty.SONG_KINDS.items():
        for number, make in enumerate(kinds.values()):
            record = dirty.song(song_id=f"S{effect}{number}", artist_id=f"A{effect}{number}")
            catalogue[f"song_data/A/{effect}/{number}.json"] = make(record, rng)
            if effect == "duplicate":
                catalogue[f"song_data/B/{effect}/{number}.json"] = dirty.dump(record)
    source = folder / "in"
    source.mkdir()
    write_zip(source, "log_data.zip", logs)
    write_zip(source, "song_data.zip", catalogue)
    stale = folder / "lake/_rejected/logs/part-0.json"
    stale.parent.mkdir(parents=True)
    stale.write_text('{"source": "x.json", "reason": "an earlier run", "raw": "{"}\n')
    arguments = ("--input", source, "--output", folder / "lake", "--max-rejected", "1", "--report", "report.json")
    return done(folder, *arguments, source=source, expected=None, output="lake")


def test_every_kind_of_dirt_in_zips_gives_the_oracles_tables(every_kind):
    assert_tables(every_kind.output, every_kind.expected)


def test_every_kind_of_bad_record_is_kept_and_counted(every_kind):
    counts = every_kind.expected["report"]["input"]
    assert counts["logs"]["rejected"] == len(dirty.EVENT_KINDS["rejected"])
    assert counts["songs"]["rejected"] == len(dirty.SONG_KINDS["rejected"])
    assert_rejected(every_kind)
    assert_summary(every_kind)
    assert_report(every_kind)
