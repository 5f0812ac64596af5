"""Which files an input has, how they are shared among tasks, and what is read of them."""

import gzip
import json
import random
import shutil
import zipfile

import pytest
from dirty import dump, event, song, write_input
from rows import as_json
from s3 import client_of, put, storage_at

import etl
from sparkify import source
from sparkify.errors import UsageError
from sparkify.records import UNREADABLE
from sparkify.schema import RECORDS
from sparkify.source import File, content_of, find_input, opened, ranges_of, read_by_hadoop, rows_of, shares_of
from sparkify.storage import storage_of

ITEM = list(RECORDS["logs"]).index("item_in_session")


@pytest.fixture
def place(tmp_path):
    return write_input(tmp_path / "in", [song()], [event()])


def names(place, kind):
    return [file.member or file.name for file in find_input(str(place)).files[kind]]


# --- Which files -----------------------------------------------------------------------------------------------


def test_hidden_files_and_folders_are_no_data(place):
    for name in ("_x.json", ".x.json", "notes.txt", "x.json.bak", "__MACOSX/x.json", ".git/x.json", "2018_$folder$"):
        (place / "log_data" / name).parent.mkdir(exist_ok=True)
        (place / "log_data" / name).write_text("{}")
    assert names(place, "logs") == ["log_data/2018/11/2018-11-01-events.json"]


def test_where_no_file_can_be_read_it_is_said_which_were_skipped_and_which_folder_to_name(place, capsys):
    with pytest.raises(UsageError, match="no song JSON in .*song_data: .*; name the folder above it$"):
        find_input(str(place / "song_data"))
    (log,) = (place / "log_data/2018/11").iterdir()
    log.rename(log.with_suffix(".txt"))
    with pytest.raises(UsageError, match="no log JSON in .* with JSON in it$"):
        find_input(str(place))
    assert "files skipped: 1, for example " in capsys.readouterr().err


def test_folders_that_are_linked_to_each_other_are_read_once(place):
    for name in "abc":
        (place / "log_data" / name).mkdir()
        (place / "log_data" / name / "x.json").write_text("{}")
        for other in "abc":
            if other != name:
                (place / "log_data" / name / f"to_{other}").symlink_to(place / "log_data" / other)
    assert len(names(place, "logs")) == 4


def test_a_link_to_a_folder_above_is_not_followed_round_in_circles(place):
    (place / "song_data/up").symlink_to(place)
    assert [name for name in names(place, "songs") if "TRAA" in name] == ["song_data/A/A/A/TRAA0000000.json"]


def test_the_members_of_a_zip_are_read_where_they_are(place, capsys):
    with zipfile.ZipFile(place / "log-data.zip", "w") as archive:
        for name in ("x/b.json", "./a.json", "__MACOSX/a.json", "notes.txt", "folder.json/"):
            archive.writestr(name, b"" if name.endswith("/") else dump(event(page="Home")))
    assert names(place, "logs") == ["./a.json", "x/b.json", "log_data/2018/11/2018-11-01-events.json"]
    warning = f"files skipped: 1, for example {place}/log-data.zip!notes.txt; only"
    assert warning in capsys.readouterr().err


def test_the_songs_alone_are_an_input_of_songs(place):
    shutil.rmtree(place / "log_data")
    assert opened(place, ["songs"]).size_of("logs") == 0
    with pytest.raises(UsageError, match="no log JSON"):
        opened(place)


# --- Shares ----------------------------------------------------------------------------------------------------


def test_a_large_file_is_cut_into_ranges_that_have_each_line_once(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "SHARE", 1000)
    number = random.Random(1)
    records = [event(itemInSession=n, location="x" * number.randrange(900)) for n in range(200)]
    lines = [json.dumps(record, indent=n % 3 or None).encode() for n, record in enumerate(records)]
    for end in (b"", b"\n", b"\r\n"):
        (tmp_path / "a.json").write_bytes(b"\n".join(lines) + end)
        ranges = ranges_of(storage_of(str(tmp_path)), File("a.json", (tmp_path / "a.json").stat().st_size))
        assert len(ranges) > 50
        rows = list(rows_of(storage_of(str(tmp_path)), "logs", ranges))
        assert [row[ITEM] for row in rows] == list(range(200))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    rows = list(rows_of(storage_of(str(tmp_path)), "logs", [File("a.json.gz", 100)]))
    assert [row[ITEM] for row in rows] == list(range(200))


@pytest.mark.parametrize("size", range(1, 60))
def test_ranges_of_any_size_have_each_byte_of_a_file_once(tmp_path, size):
    content = b'{"a": 1}\n{\n "b": [\n{"c": 2}]}\n\nno object\n{}{}\r\n{"d": 3}\n'
    (tmp_path / "a.json").write_bytes(content)
    storage = storage_of(str(tmp_path))
    ranges = [File("a.json", min(size, len(content) - start), start=start) for start in range(0, len(content), size)]
    assert b"".join(content_of(storage, part) for part in ranges) == content


def test_shares_are_of_about_the_same_size_and_have_each_file_once(tmp_path):
    storage = storage_of(str(tmp_path))
    files = [File(f"{n}.json", size) for n, size in enumerate([100] * 5000 + [300 << 20] + [40 << 20] * 9)]
    for file in files:
        if file.size > 2 * source.SHARE:
            (tmp_path / file.name).write_bytes(b"{}\n")
    shares = shares_of(storage, files, 2)
    assert [file.name for share in shares for file in share if not file.start] == [file.name for file in files]
    assert max(sum(file.size for file in share) for share in shares) <= 2 * source.SHARE
    assert sum(file.size for share in shares for file in share) == sum(file.size for file in files)
    assert 4 <= len(shares_of(storage, files[:10], 4)) <= 5


# --- Reading ---------------------------------------------------------------------------------------------------


def test_tasks_read_what_the_driver_reads(spark, place, monkeypatch):
    (place / "log_data/more.json").write_bytes(as_json(event(itemInSession=n) for n in range(3000)))
    here, there = find_input(str(place)), find_input(str(place))
    here.read_ahead()
    monkeypatch.setattr(source, "SHARE", 100_000)
    for kind in ("songs", "logs"):
        of_driver, of_tasks = here.records(spark, kind), there.records(spark, kind)
        assert of_tasks.rdd.getNumPartitions() > 1 or kind == "songs"
        assert of_driver.rdd.getNumPartitions() == 1
        assert of_driver.schema == of_tasks.schema
        assert sorted(map(str, of_driver.collect())) == sorted(map(str, of_tasks.collect()))
    assert here.counts == there.counts


def test_where_executors_lack_boto3_hadoop_reads_for_the_same_functions(spark, tmp_path):
    contents = {"a [1].json": dump(event()) + b"\r\n[]", "b.json": b"", "é c.json": dump(event(page="Home"))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    storage, files = storage_of(str(tmp_path)), [File(name, len(content)) for name, content in contents.items()]
    rows = read_by_hadoop(spark, storage, "logs", files).collect()
    assert sorted(map(repr, (row[4:] for row in rows))) == sorted(
        repr(row[4:]) for row in rows_of(storage, "logs", files)
    )
    assert {row[1].split("/")[-1] for row in rows if row[0]} == {"a [1].json"}
    with pytest.raises(UsageError, match="boto3"):
        read_by_hadoop(spark, storage, "logs", [File("log-data.zip", 4, "a.json")])


@pytest.mark.parametrize("start", [None, 1])
def test_an_object_that_is_gone_after_the_listing_is_named(fast_endpoint, start):
    storage = storage_at(fast_endpoint, "s3://gone")
    put(client_of(fast_endpoint), "gone", {})
    (row,) = rows_of(storage, "logs", [File("log_data/a.json", 5, start=start)])
    assert row[:3] == [
        UNREADABLE,
        "s3://gone/log_data/a.json",
        "it was there when the run began, and is gone: run it again while nobody changes the input",
    ]


def test_a_file_that_is_gone_after_the_listing_is_named(spark, place):
    found = find_input(str(place))
    next((place / "log_data").rglob("*.json")).unlink()
    (row,) = rows_of(found.storage, "logs", found.files["logs"])
    assert row[0] == UNREADABLE
    with pytest.raises(UsageError, match="2018-11-01-events.json: it was there when the run began, and is gone"):
        found.records(spark, "logs")


@pytest.mark.parametrize(("old", "new"), [(b"Setanta", b"Petanta"), (b"PK\3\4", b"PK\3\5")])
def test_a_damaged_member_of_a_zip_is_named(place, old, new):
    """Its checksum is another's; its header is none."""
    with zipfile.ZipFile(place / "log-data.zip", "w") as archive:
        archive.writestr("a.json", dump(event()))
    path = place / "log-data.zip"
    path.write_bytes(path.read_bytes().replace(old, new))
    found = find_input(str(place))
    *_, row = rows_of(found.storage, "logs", found.files["logs"])
    assert row[:2] == [UNREADABLE, f"{path}!a.json"]
    assert json.dumps(row[2])


def test_gzips_other_names_and_folders_with_a_hyphen_are_read(tmp_path):
    (tmp_path / "deep/song-data").mkdir(parents=True)
    (tmp_path / "deep/song-data/a.jsonl").write_bytes(dump(song()) + b"\n" + dump(song(song_id="S2")))
    (tmp_path / "log-data").mkdir()
    plays = [dump(event(itemInSession=number)) for number in range(6)]
    (tmp_path / "log-data/2018-11-01-events.json").write_bytes(plays[0])
    (tmp_path / "log-data/a.json.gz").write_bytes(gzip.compress(plays[1]) + gzip.compress(b"\n" + plays[2]))
    (tmp_path / "log-data/b.ndjson").write_bytes(plays[3])
    (tmp_path / "log-data/listen_events").write_bytes(plays[4])
    with zipfile.ZipFile(tmp_path / "log_data.zip", "w") as archive:
        archive.writestr("log-data/c.jsonl.gz", gzip.compress(plays[5]))
    found = find_input(str(tmp_path))
    assert len(list(rows_of(found.storage, "songs", found.files["songs"]))) == 2
    assert sorted(row[ITEM] for row in rows_of(found.storage, "logs", found.files["logs"])) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"no gzip", lambda content: content[:20]]
)
def test_a_damaged_gzip_is_named_and_nothing_is_written(place, tmp_path, run_here, damage):
    content = gzip.compress(as_json(event(itemInSession=number) for number in range(100)))
    (place / "log_data/b.json.gz").write_bytes(damage(content))
    status, line = run_here("--input", place, "--output", tmp_path / "lake")
    assert status == 2
    assert "b.json.gz: it is damaged: " in line
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("given", [str, lambda place: find_input(str(place))])
def test_a_damaged_song_file_is_named_by_the_plays_alone(spark, place, tmp_path, given):
    (place / "song_data/b.json.gz").write_bytes(gzip.compress(dump(song()))[:-9])
    with pytest.raises(UsageError, match="b.json.gz: it is damaged"):
        etl.process_log_data(spark, given(place), tmp_path / "lake")
