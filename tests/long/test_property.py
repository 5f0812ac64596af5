"""Any text as input; and files larger than a test should make."""

import json
import os
import re
import zipfile

import oracle
import pytest
from dirty import dump, event, song, write_input
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_property import EVENTS, SONGS, source, zipped  # noqa: F401

import etl

ENDS = st.sampled_from([b"\n", b"\r\n"])


@pytest.fixture(scope="module")
def balanced(spark, tmp_path_factory):
    """Run on a folder; the report's counts must add up, and be those of the records that are expected."""
    patch = pytest.MonkeyPatch()
    before = spark.conf.get("spark.sql.shuffle.partitions")
    patch.chdir(tmp_path_factory.mktemp("runs"))

    def run(source, songs=None, events=None):
        report = source.parent / "report.json"
        arguments = ("--input", source, "--output", source.parent / "lake", "--max-rejected", "1", "--report", report)
        assert etl.main(list(map(str, arguments))) == 0
        report = json.loads(report.read_text())
        rows = {name: table["rows"] for name, table in report["tables"].items()}
        found, logs = report["input"]["songs"], report["input"]["logs"]
        assert found["records"] == rows["songs"] + found["duplicates"] + found["rejected"]
        assert logs["records"] == rows["songplays"] + logs["duplicates"] + logs["not_plays"] + logs["rejected"]
        assert min(number for counts in (found, logs) for number in counts.values() if isinstance(number, int)) >= 0
        if songs is not None:
            assert found["records"] == songs
        if events is not None:
            assert logs["records"] == events
        return report["input"]

    yield run
    patch.undo()
    spark.conf.set("spark.sql.shuffle.partitions", before)


@settings(
    max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(EVENTS, SONGS, ENDS, st.booleans())
def test_every_record_is_used_a_duplicate_no_play_or_rejected(balanced, tmp_path_factory, events, songs, end, marked):
    source = write_input(tmp_path_factory.mktemp("any") / "in", songs, [])
    content = (b"\xef\xbb\xbf" if marked else b"") + end.join([*events, *events[::-3]])
    (source / "log_data/2018/11/2018-11-01-events.json").write_bytes(content)
    texts = [oracle.texts_in("songs", song.decode("utf-8", "replace")) for song in songs]
    balanced(source, sum(map(len, texts)), len(oracle.texts_in("logs", content.decode("utf-8", "replace"))))


def test_a_line_of_100_mb_is_one_record(balanced, tmp_path):
    source = write_input(tmp_path / "in", [song()], [event(), event(itemInSession=6)])
    path = next((source / "log_data").rglob("*.json"))
    path.write_bytes(path.read_bytes() + b'{"page": "' + b"x" * 100_000_000 + b'"}\n' + dump(event(itemInSession=7)))
    assert balanced(source, 1, 4)["logs"]["plays"] == 3


def test_utf_16_is_rejected_and_kept(balanced, tmp_path):
    source = write_input(tmp_path / "in", [json.dumps(song()).encode("utf-16")], [])
    next((source / "log_data").rglob("*.json")).write_bytes((json.dumps(event()) + "\n").encode("utf-16") * 2)
    counts = balanced(source, 1)
    assert counts["songs"]["rejected"] == 1
    assert counts["logs"]["plays"] == 0
    assert counts["logs"]["rejected"] == counts["logs"]["records"] > 0


def test_empty_files_and_half_surrogates(balanced, tmp_path):
    half = json.dumps(event()).replace("Elena", r"\ud83d").encode()
    source = write_input(tmp_path / "in", [b"", b"\xef\xbb\xbf", json.dumps(song(title="\ud800"))], [half])
    for number in range(3):
        (source / f"log_data/empty-{number}.json").write_bytes(b"\r\n"[:number])
    counts = balanced(source, 3, 1)
    assert counts["songs"]["rejected"] >= 2


def test_nothing_is_written_under_the_name_of_a_member(source, balanced):
    inner = source.parent / "inner.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("log_data/a.json", dump(event(itemInSession=7)))
    members = [("../../evil.json", dump(event(itemInSession=8))), ("/etc/evil.json", dump(event(itemInSession=9)))]
    members += [("log_data/inner.zip", inner.read_bytes()), ("log_data/nested.json", inner.read_bytes())]
    zipped(source, [*members, ("C:\\evil.json", dump(event(itemInSession=10)))])
    counts = balanced(source, 1)["logs"]
    assert counts["plays"] == 2  # of /etc/evil.json and C:\evil.json, read where they are
    assert counts["rejected"] == counts["records"] - 2
    names = [name for _, folders, files in os.walk(source.parent.parent) for name in (*folders, *files)]
    assert not [name for name in names if re.search("evil|nested", name)]
    assert not os.path.exists("/etc/evil.json")
