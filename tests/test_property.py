"""Any input: records in are records used, duplicates, no plays and rejected ones, and nothing ends with a traceback.

A run takes seconds, so that an example is a whole folder: some hundred generated lines and catalogue files.
"""

import json
import os
import random
import sys
import zipfile

import orjson
import pytest
from dirty import BASE_EVENT, BASE_SONG, EVENT_KINDS, SONG_KINDS, dump, dump_raw, event, song, write_input
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import read

import etl
from sparkify import session as session_room
from sparkify import source as source_room

# ---- Generated records -----------------------------------------------------------------------------------

ODD_CHARACTERS = st.sampled_from("\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\ufeff\ufffe\U0001f600{}[],:\"\\'é́")
TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), ODD_CHARACTERS), max_size=20)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.integers(10**300, 10**310), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.integers(0, 3), st.integers(0, 3).map(str)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
LITERALS = st.sampled_from(
    [
        *("[" * 1500 + "]" * 1500, '{"a":' * 1200 + "1" + "}" * 1200, "1" * 2000, "1e99999", "-0", "NaN", "0x1"),
        *(r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', r'"\q"', '"\0"', "'x'", '"NextSong"', '"' + "x" * 100_000 + '"'),
    ]
)
BROKEN = st.one_of(
    st.binary(max_size=60).map(lambda content: content.replace(b"\n", b"")),
    st.sampled_from([b"{", b"}{", b"[]", b"null", b"{}{}", b"\xff\xfe{}", b"\xed\xa0\x80", b"\xef\xbb\xbf{}", b"\0"]),
)


def records(base):
    """Lines of JSON: base, copies of it, base with another value in a field, cut off, or something else altogether."""
    field = st.sampled_from(sorted(base))
    changed = st.tuples(field, VALUES).map(lambda change: json.dumps({**base, change[0]: change[1]}).encode())
    unescaped = st.tuples(field, TEXTS).map(lambda change: dump({**base, change[0]: change[1]}))
    literal = st.tuples(field, LITERALS).map(lambda change: literally(base, *change))
    many = st.dictionaries(field, VALUES, max_size=8).map(lambda changes: json.dumps({**base, **changes}).encode())
    cut = st.tuples(changed, st.integers(0, 500)).map(lambda cut: cut[0][: cut[1]])
    return st.one_of(changed, changed, unescaped, many, literal, cut, BROKEN, st.just(dump(base)))


def literally(base, key, literal):
    return json.dumps({**base, key: "@"}).encode().replace(b'"@"', literal.encode())


EVENTS = st.lists(records(BASE_EVENT), min_size=30, max_size=100)
SONGS = st.lists(records(BASE_SONG), min_size=10, max_size=30)


# ---- With and without orjson -----------------------------------------------------------------------------


def both_ways(kind, contents):
    """What is read of contents with orjson and without it, as text: -0.0 is not 0.0, and 1 not 1.0."""
    found = []
    for module in (orjson, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "orjson", module)
            found.append([repr(read(kind, content)) for content in contents])
    return found


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(EVENTS, SONGS)
def test_generated_records_are_read_alike_with_and_without_orjson(events, songs):
    for kind, contents in (("logs", events), ("songs", songs)):
        fast, slow = both_ways(kind, contents)
        assert fast == slow


def test_every_kind_is_read_alike_with_and_without_orjson():
    rng = random.Random(5)
    numbers = ["-0", "-0.0", "1e5", "1e-400", "4.9e-324", "9007199254740993", "1" * 18, "1" * 19, "1" * 20, "1" * 400]
    numbers += [f"0.{'123456789' * 4}", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e400"]
    for kind, kinds, base in (("logs", EVENT_KINDS, BASE_EVENT), ("songs", SONG_KINDS, BASE_SONG)):
        contents = [make(base, rng) for makers in kinds.values() for make in makers.values()]
        contents += [dump_raw(base, name, number) for name in base for number in numbers]
        contents += [dump_raw(base, name, f'"{number}"') for name in base for number in numbers]
        fast, slow = both_ways(kind, contents)
        assert fast == slow


# ---- Zips that mean harm ---------------------------------------------------------------------------------


def zipped(source, members, **options):
    """Replace log_data by a zip of [(name, content)]."""
    next((source / "log_data").rglob("*.json")).unlink()
    with zipfile.ZipFile(source / "log-data.zip", "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return source / "log-data.zip"


def refusal(source, capsys):
    before = sorted(os.walk(source.parent))
    assert etl.main(["--input", str(source), "--output", str(source.parent / "lake")]) == 2
    assert sorted(os.walk(source.parent)) == before
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("etl.py: ")
    assert "log-data.zip" in line
    return line


@pytest.fixture
def source(tmp_path):
    return write_input(tmp_path / "in", [song()], [event()])


@pytest.fixture
def no_spark(monkeypatch):
    monkeypatch.setattr(session_room, "spark_session", lambda *_, **__: pytest.fail("Spark is started"))


def test_a_zip_bomb_is_refused(source, capsys, no_spark):
    path = zipped(source, [("log_data/a.json", b" " * (100 << 20))])
    assert path.stat().st_size < 200_000
    assert "more than 100 times its size" in refusal(source, capsys)


def test_a_member_above_the_limit_is_refused(source, capsys, no_spark, monkeypatch):
    monkeypatch.setattr(source_room, "ZIP_MEMBER", 1000)
    zipped(source, [("log_data/a.json", b" " * 1000), ("log_data/b.json", b" " * 1001)])
    assert "b.json would expand to 1,001 bytes" in refusal(source, capsys)


def test_an_encrypted_zip_is_refused(source, capsys, no_spark):
    path = zipped(source, [("log_data/a.json", dump(event()))])
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    assert "a.json is encrypted" in refusal(source, capsys)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(source, capsys, no_spark):
    zipped(source, [("log_data/a.json", dump(event())), ("log_data/a.json", dump(event(itemInSession=6)))])
    assert "a.json is in it more than once" in refusal(source, capsys)
