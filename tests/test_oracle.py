"""Known answers for the two things the end-to-end tests lean on: the oracle and the maker of dirty input."""

import datetime
import json
import zipfile
from collections import Counter

import dirty
import oracle
import pytest
from dirty import BASE_EVENT, BASE_SONG, dump_raw, event, make_dirty, song, write_input

PLAY_TIME = datetime.datetime(2018, 11, 1, 20, 57, 10, 796000)
SONG_ID, ARTIST_ID = BASE_SONG["song_id"], BASE_SONG["artist_id"]


@pytest.fixture
def tables_of(tmp_path):
    """The oracle's answer for a few songs and events."""
    folders = iter(range(100))
    return lambda songs=(), events=(): oracle.five_tables(write_input(tmp_path / str(next(folders)), songs, events))


def raw(key, literal):
    """BASE_EVENT as a line, with a literal that json.dumps wouldn't write."""
    return dump_raw(BASE_EVENT, key, literal)


def log_counts(result):
    counts = result["report"]["input"]["logs"]
    return tuple(counts[name] for name in ("records", "plays", "duplicates", "not_plays", "rejected"))


def matched_songs(result):
    return [row[4] for row in result["songplays"]]


def in_order_of_ts(result, column):
    """One column of songplays."""
    return [row[column] for row in sorted(result["songplays"], key=lambda row: row[1])]


# ---- The hash --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # Literals from SELECT xxhash64(1L), … in Spark 3.5.
        ((1,), -7001672635703045582),
        ((0,), -5252525462095825812),
        ((-1,), 3858142552250413010),
        ((1, 2), -8198029865082835910),
        ((39, 38, 0, 1541105830796), 78854811886534112),
        ((8, 139, 3, 1541106106796), 9081428247384856177),
        ((2**63 - 1, 0, 2**63 - 1, 4133980799999), 6973921915294575531),
    ],
)
def test_hash_is_sparks(values, expected):
    assert oracle.xxhash64(*values) == expected


# ---- The tables ------------------------------------------------------------------------------------------


def test_one_song_and_one_play_give_a_row_of_each_table(tables_of):
    result = tables_of([song()], [event()])
    play_id = oracle.xxhash64(15, 818, 5, 1541105830796)
    location, agent = BASE_EVENT["location"], BASE_EVENT["userAgent"].strip('"')
    assert result == {
        "songplays": [(play_id, PLAY_TIME, 15, "paid", SONG_ID, ARTIST_ID, 818, location, agent, 2018, 11)],
        "users": [(15, "Lily", "Koch", "F", "paid")],
        "songs": [(SONG_ID, "Setanta matins", ARTIST_ID, 269.58322, 0)],
        "artists": [(ARTIST_ID, "Elena", "Dubai UAE", 49.80388, 15.47491)],
        "time": [(PLAY_TIME, 20, 1, 44, 11, 2018, 4)],
        "report": {
            "input": {
                "songs": {"files": 1, "records": 1, "duplicates": 0, "rejected": 0},
                "logs": {"files": 1, "records": 1, "plays": 1, "duplicates": 0, "not_plays": 0, "rejected": 0},
            },
            "tables": {name: {"rows": 1} for name in ("songplays", "users", "songs", "artists", "time")},
            "matched_plays": 1,
        },
        "rejected": [],
    }


def test_no_input_gives_empty_tables(tables_of):
    result = tables_of()
    assert [result[name] for name in oracle.SELECTS] == [[]] * 5
    assert log_counts(result) == (0, 0, 0, 0, 0)


def test_weeks_and_weekdays_are_iso(tables_of):
    # Monday 2018-12-31 belongs to week 1, Sunday 2017-01-01 to week 52 of the year before.
    result = tables_of([], [event(ts=1546214400000), event(ts=1483228800000)])
    assert [row[3:] for row in result["time"]] == [(52, 1, 2017, 7), (1, 12, 2018, 1)]


def test_plays_at_one_moment_share_a_row_of_time(tables_of):
    result = tables_of([], [event(), event(userId="16")])
    assert len(result["songplays"]) == 2
    assert len(result["time"]) == 1


# ---- What a record is ------------------------------------------------------------------------------------

ONE = json.dumps(BASE_EVENT)


NOT_ONE_OBJECT = [
    *(ONE + " x", ONE + ",", ONE + "]", ONE[:-1], ONE[:-1] + ",}", "[" + ONE + "]"),
    *("[]", "42", "true", "null", '"text"', "{}", "\f", "\u00a0", "\0", repr(BASE_EVENT), "{" + ONE + "}"),
    *(ONE[:-1] + ', "x": inf}', ONE + "\0"),
    *(ONE[:-1] + ', "x": [1 , ]}', ONE[:-1] + "/**/}", ONE[:-1] + ', "x": "\t"}', ONE[:-1] + ', "x": 01}'),
]


def test_a_line_that_is_not_one_object_is_rejected(tables_of):
    result = tables_of([], NOT_ONE_OBJECT)
    assert result["rejected"] == sorted(("logs", line) for line in NOT_ONE_OBJECT)
    assert log_counts(result) == (len(NOT_ONE_OBJECT), 0, 0, 0, len(NOT_ONE_OBJECT))


def test_odd_text_in_a_string_is_kept(tables_of):
    texts = ["}{", ",}", "NaN", "a, ] b", '"', "\\", '\\"NaN', "[1,]", "inf", "\u2028", "\u0085", "a\nb", "\0"]
    events = [event(ts=n, location=text) for n, text in enumerate(texts)]
    for lines in (events, [json.dumps(row, ensure_ascii=True) for row in events]):
        assert in_order_of_ts(tables_of([], lines), column=7) == texts


def test_blank_lines_and_byte_order_marks_are_no_records(tables_of):
    result = tables_of(
        [], ["", " \t\r", "\ufeff", "\ufeff" + ONE + "\r", "\t" + json.dumps(BASE_EVENT, separators=(",\r", " : "))]
    )
    assert log_counts(result) == (2, 1, 1, 0, 0)


def test_a_log_is_a_stream_of_objects(tables_of):
    first, second = json.dumps(event(itemInSession=1)), json.dumps(event(itemInSession=2))
    pretty = json.dumps(event(itemInSession=3), indent=2)
    assert log_counts(tables_of([], [first + second])) == (2, 2, 0, 0, 0)
    assert log_counts(tables_of([], [first + " " + second, pretty, first[:40], second])) == (5, 3, 1, 0, 1)
    assert log_counts(tables_of([], [f"[{first},{second}]"])) == (2, 2, 0, 0, 0)
    assert log_counts(tables_of([], ["[", first + ",", second, "]"])) == (2, 2, 0, 0, 0)
    assert log_counts(tables_of([], [f"[{first}]", second])) == (2, 1, 0, 0, 1)


def test_a_rejected_line_loses_its_last_carriage_return_only(tables_of):
    assert tables_of([], ["a \r\r"])["rejected"] == [("logs", "a \r")]


def test_bytes_that_are_not_utf8_are_replaced(tables_of):
    result = tables_of([], [raw("location", b'"a\xffb"'), b"\xe9 x"])
    assert result["songplays"][0][7] == "a\ufffdb"
    assert result["rejected"] == [("logs", "\ufffd x")]


def test_page_decides_what_an_event_is(tables_of):
    bad = [event(page=page) for page in (..., None, "", True, {}, ["NextSong"])]
    other = [event(page=page, userId="") for page in ("Home", "nextsong", "NextSong ", "null")]
    assert log_counts(tables_of([], bad + other)) == (10, 0, 0, 4, 6)


# ---- Types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["userId", "sessionId", "itemInSession", "ts"])
def test_keys_are_whole_numbers_or_digits(tables_of, key):
    bad = ['" 7"', '"7 "', '"+7"', '"-7"', "-7", '"12.5"', "12.5", '"1e3"', '""', "null", "true", "[7]", '"７"']
    bad += ["9223372036854775808", '"9223372036854775808"', "18446744073709551616", "1" * 40, r'"7\n"', '"٣"']
    result = tables_of([], [raw(key, literal) for literal in bad] + [event(**{key: ...})])
    assert log_counts(result) == (len(bad) + 1, 0, 0, 0, len(bad) + 1)
    good = ["7", '"7"', '"007"', '"' + "0" * 40 + '7"', "0", '"0"', "7.0", '"7.00"', "1e3", "1000"]
    assert log_counts(tables_of([], [raw(key, literal) for literal in good])) == (10, 3, 7, 0, 0)
    beyond = ["9007199254740992.0", '"9007199254740992.0"']
    assert log_counts(tables_of([], [raw(key, literal) for literal in beyond])) == (2, 0, 0, 0, 2)


def test_the_bounds_of_keys(tables_of):
    result = tables_of([], [event(userId=str(2**63 - 1), ts=4133980799999), event(ts=4133980800000), event(ts=0)])
    assert log_counts(result) == (3, 2, 0, 0, 1)
    first, last = (row[0] for row in result["time"])
    assert first == datetime.datetime(1970, 1, 1)
    assert last == datetime.datetime(2100, 12, 31, 23, 59, 59, 999000)
    assert [row[0] for row in result["users"]] == [15, 2**63 - 1]


def test_text_is_a_string_or_an_integers_digits(tables_of):
    cases = [("42", "42"), ("-5", "-5"), ("1" * 40, "1" * 40), ('" "', " "), ('"null"', "null"), ('""', None)]
    cases += [("null", None), ("true", None), ("[1]", None), ('{"a": "b"}', None)]
    lines = [dump_raw(event(ts=n), "location", literal) for n, (literal, _) in enumerate(cases)]
    assert in_order_of_ts(tables_of([], lines), column=7) == [expected for _, expected in cases]


def test_a_user_agent_loses_one_pair_of_quotes(tables_of):
    cases = [('"x"', "x"), ('""x""', '"x"'), ('"', '"'), ('""', None), ('"""', '"'), ('"x', '"x'), ("", None)]
    cases += [(' "x"', ' "x"'), ("x", "x"), (7, "7"), ('"a\nb"', "a\nb"), ('"é😀e\u0301"', "é😀e\u0301"), (True, None)]
    events = [event(ts=n, userAgent=agent) for n, (agent, _) in enumerate(cases)]
    assert in_order_of_ts(tables_of([], events), column=8) == [expected for _, expected in cases]


def songs_of(key, cases):
    """A song, and its artist, for each (literal, expected) with the literal in the place of a field."""
    return [
        dump_raw(song(song_id=f"SO{n:02}", artist_id=f"AR{n:02}"), key, literal) for n, (literal, _) in enumerate(cases)
    ]


def test_numbers_are_finite_json_numbers(tables_of):
    cases = [("1", 1.0), ("-0.5", -0.5), ("2.5E2", 250.0), ("9007199254740993", 9007199254740992.0), ("1e400", None)]
    cases += [
        ("9" * 400, None),
        ('"1.0"', 1.0),
        ('"1,0"', None),
        ("NaN", None),
        ("-Infinity", None),
        ("true", None),
        ("null", None),
        ("[1.0]", None),
    ]
    for key, table in (("duration", "songs"), ("artist_latitude", "artists")):
        rows = tables_of(songs_of(key, cases))[table]
        assert [row[3] for row in rows] == [expected for _, expected in cases]


def test_a_year_is_a_small_integer(tables_of):
    cases = [("1999", 1999), ("0", 0), ("-1", -1), ("2147483647", 2147483647), ("2147483648", None), ("2e3", 2000)]
    cases += [("2000.0", 2000), ('"2000"', 2000), ("2000.5", None), ("null", None), ("true", None), ("1" * 30, None)]
    rows = tables_of(songs_of("year", cases))["songs"]
    assert [row[4] for row in rows] == [expected for _, expected in cases]


# ---- Songs -----------------------------------------------------------------------------------------------


def test_a_song_file_is_one_object(tables_of):
    one = json.dumps(BASE_SONG)
    bad = ["", " \n", one + "," + one, one[:-1] + "\n" + one[:-1], "[]", "null", one[:-1], one[:-1] + ",}", one + "x"]
    result = tables_of(bad)
    assert result["report"]["input"]["songs"] == {"files": 9, "records": 9, "duplicates": 0, "rejected": 9}
    assert result["rejected"] == sorted(("songs", text) for text in bad)
    several = [one + one, one + "\n" + one, f"[{one}, {one}]", f"[\n{one},\n{one}\n]\n"]
    result = tables_of(several)
    assert result["report"]["input"]["songs"] == {"files": 4, "records": 8, "duplicates": 7, "rejected": 0}
    result = tables_of([one + "\n\n" + one[:-1] + "\n" + one])
    assert result["report"]["input"]["songs"] == {"files": 1, "records": 3, "duplicates": 1, "rejected": 1}
    good = [one, "\ufeff" + one, "\r\n" + json.dumps(BASE_SONG, indent=2).replace("\n", "\r\n") + "\n\n"]
    result = tables_of(good)
    assert result["report"]["input"]["songs"] == {"files": 3, "records": 3, "duplicates": 2, "rejected": 0}


@pytest.mark.parametrize("key", ["song_id", "artist_id", "title"])
def test_a_song_needs_its_ids_and_title(tables_of, key):
    result = tables_of([song(**{key: value}) for value in (..., None, "", False, {}, [1])] + [song(**{key: 7})])
    assert result["report"]["input"]["songs"]["rejected"] == 6
    assert len(result["songs"]) == 1


def test_the_first_of_differing_songs_is_chosen_nulls_last(tables_of):
    def chosen(*songs):
        forth, back = tables_of(songs), tables_of(songs[::-1])
        assert forth == back
        return forth["songs"]

    assert chosen(song(title="b", year=1), song(title="a", year=2)) == [(SONG_ID, "a", ARTIST_ID, 269.58322, 2)]
    assert chosen(song(year=None), song(year=2))[0][4] == 2
    assert chosen(song(duration=None), song(duration=1), song(duration=-1))[0][3] == -1.0
    # In UTF-8 U+FF5E comes before U+1F600; in UTF-16 it doesn't. Upper case comes before lower case.
    assert chosen(song(title="\U0001f600"), song(title="～"))[0][1] == "～"
    assert chosen(song(title="a"), song(title="B"))[0][1] == "B"


def test_artists_come_from_all_accepted_songs(tables_of):
    songs = [
        song(title="b", artist_name="Aaron", artist_location=None),
        song(title="b", artist_name="Aaron", artist_location="X", artist_latitude=None),
        song(title="a", artist_name="Zoe"),
        song(title=None, artist_name="A"),
    ]
    result = tables_of(songs)
    assert result["songs"][0][1] == "a"
    assert result["artists"] == [(ARTIST_ID, "Aaron", "X", None, 15.47491)]


# ---- Plays -----------------------------------------------------------------------------------------------


def test_copies_of_a_play_are_one_play(tables_of):
    copies = [event(level="paid", location="A"), event(level="free", location="B", userId=15)]
    copies += [event(level=None, location="A"), event(level="free", location=None, ts="1541105830796")]
    result = tables_of([], copies)
    assert log_counts(result) == (4, 1, 3, 0, 0)
    assert [(row[3], row[7]) for row in result["songplays"]] == [("free", "B")]
    assert [log_counts(tables_of([], [event(), event(**{key: 7})]))[1] for key in dirty.KEYS] == [2] * 4


def test_copies_are_ordered_after_quotes_are_taken_off(tables_of):
    result = tables_of([], [event(userAgent='"b"'), event(userAgent="a"), event(userAgent='""')])
    assert result["songplays"][0][8] == "a"


def test_a_play_matches_by_title_and_artist_of_the_chosen_song(tables_of):
    assert matched_songs(tables_of([song(title="Other")], [event()])) == [None]
    assert matched_songs(tables_of([song(artist_name="Other")], [event()])) == [None]
    assert matched_songs(tables_of([song(artist_name="")], [event(artist="")])) == [None]
    assert matched_songs(tables_of([song(artist_name=None)], [event(artist=None)])) == [None]
    assert matched_songs(tables_of([song(title=7)], [event(song="7")])) == [SONG_ID]
    # The song chosen is the one by Aaron, so a play of Elena's finds nothing.
    assert matched_songs(tables_of([song(), song(artist_name="Aaron")], [event()])) == [None]


def test_the_nearest_duration_matches_then_the_smallest_song_id(tables_of):
    songs = [song(song_id="C", duration=90), song(song_id="B", duration=110), song(song_id="D", duration=101)]
    unknown = song(song_id="A", duration=None)

    def match(length, *songs):
        result = tables_of(songs, [event(length=length)])
        assert len(result["songplays"]) == 1
        return matched_songs(result)[0]

    assert match(100, *songs, unknown) == "D"
    assert match(100, *songs[:2], unknown) == "B"
    assert match(100, unknown, songs[0]) == "C"
    assert match(None, *songs) == "B"
    assert match(None, *songs, unknown) == "A"
    assert match(-1.7e308, song(song_id="Z", duration=1.7e308), unknown) == "A"


def test_a_user_is_as_in_the_last_play(tables_of):
    def user(*events):
        return tables_of([], events)["users"]

    early = event(ts=1, itemInSession=9, sessionId=9, level="early")
    assert user(early, event(ts=2, itemInSession=0, sessionId=0, level="late"))[0][4] == "late"
    assert user(early, event(ts=1, itemInSession=10, sessionId=0, level="late"))[0][4] == "late"
    assert user(early, event(ts=1, itemInSession=9, sessionId=10, level="late"))[0][4] == "late"
    last = event(ts=2, firstName=None, lastName="", gender=True, level=None)
    assert user(early, last) == [(15, None, None, None, None)]
    assert user(early, event(ts=2, page="Home", level="late"))[0][4] == "early"
    # Of the copies of the last play the chosen one counts.
    assert user(early, event(ts=2, level="b", firstName="A"), event(ts=2, level="a", firstName="B"))[0][1] == "B"


# ---- Where the input is ----------------------------------------------------------------------------------


def test_only_visible_json_files_are_read(tmp_path):
    write_input(tmp_path / "some/where", [song()], [event()])
    for name in dirty.JUNK:
        for folder in ("some/where/song_data", "some/where/log_data/2018", "some"):
            path = tmp_path / folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("junk")
    counts = oracle.five_tables(tmp_path)["report"]["input"]
    assert counts["songs"]["files"] == counts["logs"]["files"] == counts["logs"]["plays"] == 1


@pytest.mark.parametrize("sign", "-_")
def test_zips_are_read_like_folders(tmp_path, sign):
    folder = make_dirty_input(tmp_path)
    zips = tmp_path / "zips"
    zips.mkdir()
    for stem in ("song", "log"):
        with zipfile.ZipFile(zips / f"{stem}{sign}data.zip", "w") as archive:
            for path in sorted((folder / f"{stem}_data").rglob("*")):
                archive.write(path, path.relative_to(folder).as_posix())
    assert oracle.five_tables(zips) == oracle.five_tables(folder)


def test_a_missing_input_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="song_data"):
        oracle.five_tables(tmp_path)


# ---- Dirty input -----------------------------------------------------------------------------------------


def write_clean(folder, songs, events):
    """An input of several log files without a blemish; every second event is a play."""
    write_input(folder, [song(song_id=f"SO{n}", title=f"Song {n}", artist_id=f"AR{n % 50}") for n in range(songs)], [])
    (folder / "log_data/2018/11/2018-11-01-events.json").unlink()
    for day in range(1, 11):
        plays = (
            event(userId=str(n % 90), sessionId=n // 50, itemInSession=n, ts=1541030400000 + n, song=f"Song {n % 999}")
            for n in range(day, events, 10)
        )
        lines = [json.dumps(play if n % 2 else {**play, "page": "Home"}) for n, play in enumerate(plays)]
        (folder / f"log_data/2018/11/2018-11-{day:02}-events.json").write_text("\n".join(lines) + "\n")
    return folder


def make_dirty_input(tmp_path, songs=200, events=1500, seed=1):
    make_dirty(write_clean(tmp_path / "clean", songs, events), tmp_path / "dirty", seed)
    return tmp_path / "dirty"


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_dirty_input_has_every_kind_and_the_oracle_sees_its_effect(tmp_path):
    clean = write_clean(tmp_path / "clean", 500, 8_000)
    before = oracle.five_tables(clean)["report"]["input"]
    done = make_dirty(clean, tmp_path / "dirty", seed=3, share=0.16)
    assert dirty.every_kind() - set(done) == set()
    result = oracle.five_tables(tmp_path / "dirty")
    effects = Counter()
    for name, number in done.items():
        effects[", ".join(name.split(", ")[:2])] += number
    assert result["report"]["input"]["songs"] == {
        "files": 500 + sum(number for name, number in effects.items() if name.startswith("song")),
        "records": 500 + sum(number for name, number in effects.items() if name.startswith("song")),
        "duplicates": effects["song, duplicate"],
        "rejected": effects["song, rejected"],
    }
    logs, old = result["report"]["input"]["logs"], before["logs"]
    assert logs == {
        "files": 12,
        "records": old["records"] + effects["log, duplicate"],
        "plays": old["plays"] - effects["log, other page"] - effects["log, rejected"],
        "duplicates": effects["log, duplicate"],
        "not_plays": old["not_plays"] + effects["log, other page"],
        "rejected": effects["log, rejected"],
    }
    assert sum(logs[name] for name in ("plays", "duplicates", "not_plays", "rejected")) == logs["records"]


def test_dirty_input_stays_below_one_percent_rejected(tmp_path):
    counts = oracle.five_tables(make_dirty_input(tmp_path))["report"]["input"]
    for kind in ("songs", "logs"):
        assert 0 < counts[kind]["rejected"] < 0.01 * counts[kind]["records"]


def test_dirty_files_have_the_traits_they_should(tmp_path):
    logs = [content for path, content in content_of(make_dirty_input(tmp_path)).items() if path.parts[0] == "log_data"]
    assert any(content.startswith(b"\xef\xbb\xbf{") for content in logs)
    assert any(b"}\r\n{" in content for content in logs)
    assert any(content.endswith(b"}") for content in logs)
    assert any(b"\n\t \t\n" in content for content in logs)
    assert b"" in logs


def test_the_seed_decides_the_bytes(tmp_path):
    first = content_of(make_dirty_input(tmp_path / "a"))
    assert first == content_of(make_dirty_input(tmp_path / "b"))
    assert first != content_of(make_dirty_input(tmp_path / "c", seed=2))


def test_an_input_of_one_small_file_can_be_made_dirty(tmp_path):
    write_input(tmp_path / "clean", [song()], [event(), event(ts=1), event(page="Home")])
    make_dirty(tmp_path / "clean", tmp_path / "dirty", seed=1)
    counts = oracle.five_tables(tmp_path / "dirty")["report"]["input"]
    assert counts["logs"]["rejected"] == counts["songs"]["rejected"] == 0


def test_an_override_of_dots_removes_the_key():
    assert "artist" not in event(artist=...)
    assert song(year=...) == {key: value for key, value in BASE_SONG.items() if key != "year"}
