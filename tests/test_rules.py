"""Each rule of the tables and of bad records, on rows made for it.

A query costs more than its rows, so the cases of a rule go through one query. Records are cached, as they are in a run:
else Spark would parse a record again for each column that a table takes from it.
"""

import datetime
import itertools
import json
import random
import time

import dirty
import oracle
import pytest
from dirty import BASE_EVENT, BASE_SONG, dump_raw, event, song
from tables import COLUMNS

import etl

BIGINT_MAX = 2**63 - 1
LAST_MS = 4133980799999  # the last of the year 2100

# ---- From records to tables ------------------------------------------------------------------------------


def raw_rows(spark, records):
    """(source, raw): a row a record, from source 0, source 1, …; a dict is written as JSON."""
    texts = [json.dumps(record, ensure_ascii=False) if isinstance(record, dict) else record for record in records]
    rows = [(f"source {number}", text) for number, text in enumerate(texts)]
    return spark.createDataFrame(rows, "source string, raw string")


def judged_events(spark, cases):
    """{case: its row of event_records}."""
    return dict(zip(cases, etl.event_records(raw_rows(spark, cases.values())).cache().collect()))


def judged_songs(spark, cases):
    """{case: its row of song_records}."""
    return dict(zip(cases, etl.song_records(raw_rows(spark, cases.values())).cache().collect()))


def plays(spark, events):
    return etl.plays_of(etl.event_records(raw_rows(spark, events)).cache())


def songs(spark, records):
    return etl.song_records(raw_rows(spark, records)).cache().where("reason IS NULL")


def songplays(spark, events, catalogue=()):
    return etl.songplays_table(plays(spark, events), etl.songs_by_name(songs(spark, catalogue)))


def rows(table):
    """The rows, sorted, a timestamp as its text in the session's zone: collect() would give the machine's."""
    columns = [f"cast({name} AS string) AS {name}" if kind == "timestamp" else name for name, kind in table.dtypes]
    return sorted(table.selectExpr(*columns).collect(), key=str)


def raw(base, key, literal):
    """A base row as a line, with a literal in the place of a field that json.dumps wouldn't write."""
    return dump_raw(base, key, literal).decode()


def ms(*moment):
    """Milliseconds since the epoch of a moment in UTC: year, month, day, hour, minute, second."""
    return int(datetime.datetime(*moment, tzinfo=datetime.timezone.utc).timestamp() * 1000)


# ---- Contracts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_has_the_promised_columns(spark, name):
    song_rows, play_rows = songs(spark, []), plays(spark, [])
    table = {
        "songplays": lambda: etl.songplays_table(play_rows, etl.songs_by_name(song_rows)),
        "users": lambda: etl.users_table(play_rows),
        "songs": lambda: etl.songs_table(song_rows),
        "artists": lambda: etl.artists_table(song_rows),
        "time": lambda: etl.time_table(play_rows),
    }[name]()
    assert ", ".join(f"{column} {kind}" for column, kind in table.dtypes) == COLUMNS[name]
    assert etl.TABLES[name].columns == COLUMNS[name]


# ---- Time ------------------------------------------------------------------------------------------------


def test_weeks_and_weekdays_are_iso_at_the_turn_of_the_year(spark):
    turns = [datetime.datetime(year, 1, 1, 12) for year in range(1971, 2101, 3)]
    days = [turn + datetime.timedelta(number) for turn in turns for number in range(-5, 5)]
    events = [event(ts=ms(*day.timetuple()[:6])) for day in days]
    found = {row.start_time: tuple(row[1:]) for row in rows(etl.time_table(plays(spark, events)))}
    for day in days:
        _, week, weekday = day.isocalendar()
        assert found[str(day)] == (12, day.day, week, day.month, day.year, weekday)
    assert len(found) == len(days)


def test_known_weeks_and_weekdays(spark):
    expected = {
        (2018, 12, 31): (1, 1),  # a Monday, of the first week of the year after
        (2017, 1, 1): (52, 7),  # a Sunday, of the last week of the year before
        (2016, 1, 3): (53, 7),
        (2018, 11, 15): (46, 4),
        (2000, 2, 29): (9, 2),
        (1970, 1, 1): (1, 4),
    }
    table = etl.time_table(plays(spark, [event(ts=ms(*day)) for day in expected]))
    assert {(row.year, row.month, row.day): (row.week, row.weekday) for row in table.collect()} == expected


def test_time_is_utc_whatever_the_machines_zone(spark, monkeypatch):
    moments = {"2018-11-30 23:59:59.999": ms(2018, 12, 1) - 1, "2018-12-01 00:00:00": ms(2018, 12, 1)}
    zones = spark._jvm.java.util.TimeZone
    before = zones.getDefault()
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # 14 hours ahead: the day, the month and the week are others
    try:
        time.tzset()
        zones.setDefault(zones.getTimeZone("Pacific/Kiritimati"))
        play_rows = plays(spark, [event(ts=ts) for ts in moments.values()])
        times = {row.start_time: tuple(row[1:]) for row in rows(etl.time_table(play_rows))}
        played = etl.songplays_table(play_rows, etl.songs_by_name(songs(spark, [])))
        months = {row.start_time: (row.year, row.month) for row in rows(played)}
        instants = {row.ms for row in played.selectExpr("unix_millis(start_time) AS ms").collect()}
    finally:
        zones.setDefault(before)
        monkeypatch.undo()
        time.tzset()
    assert times == {
        "2018-11-30 23:59:59.999": (23, 30, 48, 11, 2018, 5),
        "2018-12-01 00:00:00": (0, 1, 48, 12, 2018, 6),
    }
    assert months == {"2018-11-30 23:59:59.999": (2018, 11), "2018-12-01 00:00:00": (2018, 12)}
    assert instants == set(moments.values())


def test_plays_at_one_moment_share_a_row_of_time(spark):
    events = [event(), event(userId="16"), event(itemInSession=6), event(ts=BASE_EVENT["ts"] + 1)]
    assert [row.start_time for row in rows(etl.time_table(plays(spark, events)))] == [
        "2018-11-01 20:57:10.796",
        "2018-11-01 20:57:10.797",
    ]


# ---- Plays -----------------------------------------------------------------------------------------------


def test_a_play_is_identified_by_user_session_item_and_moment(spark):
    others = [event(userId="16"), event(sessionId=819), event(itemInSession=6), event(ts=BASE_EVENT["ts"] + 1)]
    assert len(rows(songplays(spark, [event(), *others]))) == 5


def test_a_play_delivered_twice_is_one(spark):
    as_strings = event(userId=15, sessionId="818", itemInSession="05", ts=str(BASE_EVENT["ts"]))
    copies = [event(), event(), as_strings, event(status=404), event(level="free"), event(song="Another")]
    assert len(rows(songplays(spark, copies))) == 1


def test_only_a_next_song_is_a_play(spark):
    pages = ["NextSong", "nextsong", "NextSong ", "Home", "Next Song"]
    events = [event(page=page, userId=str(number)) for number, page in enumerate(pages)]
    assert [row.user_id for row in rows(songplays(spark, events))] == [0]


def test_songplay_id_is_the_hash_of_the_key_in_any_order_on_any_number_of_partitions(spark):
    number = random.Random(1)
    keys = [(0, 0, 0, 0), (BIGINT_MAX, BIGINT_MAX, BIGINT_MAX, LAST_MS)]
    keys += [tuple(number.randrange(10 ** number.randrange(1, 13)) for _ in range(4)) for _ in range(40)]
    events = [event(userId=str(u), sessionId=s, itemInSession=i, ts=ts) for u, s, i, ts in keys]
    names = etl.songs_by_name(songs(spark, [song()]))
    in_order = etl.songplays_table(plays(spark, events), names)
    assert {row.songplay_id for row in in_order.collect()} == {oracle.xxhash64(*key) for key in keys}
    shuffled = plays(spark, random.Random(2).sample(events, len(events))).repartition(7)
    assert rows(etl.songplays_table(shuffled, names)) == rows(in_order)


# ---- Matching --------------------------------------------------------------------------------------------

CATALOGUE = [
    song(song_id="S1", artist_id="A1", title="Plain", artist_name="Ann", duration=100.0),
    song(song_id="S2", artist_id="A2", title="Plain", artist_name="Bob", duration=200.0),
    song(song_id="S3", artist_id="A1", title="Other", artist_name="Ann", duration=100.0),
    song(song_id="S4", artist_id="A1", title="Long", artist_name="Ann", duration=100.0),
    song(song_id="S5", artist_id="A3", title="Long", artist_name="Ann", duration=200.0),
    song(song_id="S6", artist_id="A1", title="Long", artist_name="Ann", duration=None),
    song(song_id="S8", artist_id="A1", title="Twin", artist_name="Ann", duration=100.0),
    song(song_id="S7", artist_id="A3", title="Twin", artist_name="Ann", duration=100.0),
    song(song_id="S9", artist_id="A1", title="Twin", artist_name="Ann", duration=200.0),
    song(song_id="T1", artist_id="A4", title="Nobody", artist_name=None),
    song(song_id="T2", artist_id="A4", title="Nobody", artist_name=""),
    song(song_id="T3", artist_id="A4", title="Nobody", artist_name="null"),
    # A1's row in artists says Ann; this record says Zoe.
    song(song_id="T4", artist_id="A1", title="Guest", artist_name="Zoe"),
    # Two copies of one song: the first by title is chosen.
    song(song_id="T5", artist_id="A1", title="Copy one", artist_name="Ann"),
    song(song_id="T5", artist_id="A2", title="Copy two", artist_name="Bob"),
    song(song_id="T6", artist_id="A1", title="Copy", artist_name="Ann"),
    song(song_id="T6", artist_id="A1", title="Copy", artist_name="Bob"),
    song(song_id="T7", artist_id="A1", title="No length", artist_name="Ann", duration=None),
]
PLAYED = {  # case -> (song, artist, length)
    "both": ("Plain", "Ann", 100.0),
    "both, another artist": ("Plain", "Bob", 100.0),
    "title alone": ("Plain", "Cid", 100.0),
    "artist alone": ("Unknown", "Ann", 100.0),
    "title of one, artist of another": ("Other", "Bob", 100.0),
    "another case": ("plain", "ANN", 100.0),
    "a space more": ("Plain ", "Ann", 100.0),
    "far from both": ("Plain", "Ann", 9999.0),
    "nearer to the first": ("Long", "Ann", 149.9),
    "nearer to the second": ("Long", "Ann", 150.1),
    "as near to both": ("Long", "Ann", 150.0),
    "twins": ("Twin", "Ann", 100.0),
    "between twins and another": ("Twin", "Ann", 150.0),
    "nearest to the other": ("Twin", "Ann", 151.0),
    "no length": ("Long", "Ann", None),
    "no length anywhere": ("No length", "Ann", None),
    "no length in the catalogue": ("No length", "Ann", 100.0),
    "null artist": ("Nobody", None, 100.0),
    "empty artist": ("Nobody", "", 100.0),
    "null song": (None, "Ann", 100.0),
    "empty song": ("", "Ann", 100.0),
    "neither": (None, None, None),
    "name in artists": ("Guest", "Ann", 100.0),
    "name in the record": ("Guest", "Zoe", 100.0),
    "chosen copy": ("Copy one", "Ann", 100.0),
    "copy not chosen": ("Copy two", "Bob", 100.0),
    "artist name of the chosen copy": ("Copy", "Ann", 100.0),
    "artist name of the copy not chosen": ("Copy", "Bob", 100.0),
}


@pytest.fixture(scope="module")
def matched(spark):
    """Case of PLAYED -> [(song_id, artist_id)], a pair a row of songplays."""
    events = [
        event(itemInSession=number, location=case, song=title, artist=artist, length=length)
        for number, (case, (title, artist, length)) in enumerate(PLAYED.items())
    ]
    found = {case: [] for case in PLAYED}
    for row in songplays(spark, events, CATALOGUE).collect():
        found[row.location].append((row.song_id, row.artist_id))
    return found


def test_a_play_is_neither_dropped_nor_multiplied_by_matching(matched):
    assert {case: len(pairs) for case, pairs in matched.items()} == dict.fromkeys(PLAYED, 1)


def test_a_play_matches_a_song_with_its_title_and_its_artist(matched):
    assert matched["both"] == [("S1", "A1")]
    assert matched["both, another artist"] == [("S2", "A2")]
    assert matched["far from both"] == [("S1", "A1")]


@pytest.mark.parametrize(
    "case", ["title alone", "artist alone", "title of one, artist of another", "another case", "a space more"]
)
def test_a_play_without_a_match_is_kept(matched, case):
    assert matched[case] == [(None, None)]


def test_of_several_songs_the_one_with_the_nearest_duration_matches(matched):
    assert matched["nearer to the first"] == [("S4", "A1")]
    assert matched["nearer to the second"] == [("S5", "A3")]
    assert matched["nearest to the other"] == [("S9", "A1")]


def test_of_songs_as_near_the_smallest_song_id_matches(matched):
    assert matched["as near to both"] == [("S4", "A1")]
    assert matched["twins"] == [("S7", "A3")]
    assert matched["between twins and another"] == [("S7", "A3")]


def test_a_play_of_unknown_length_matches_the_smallest_song_id(matched):
    assert matched["no length"] == [("S4", "A1")]


def test_a_song_of_unknown_duration_matches(matched):
    assert matched["no length anywhere"] == matched["no length in the catalogue"] == [("T7", "A1")]


@pytest.mark.parametrize("case", ["null artist", "empty artist", "null song", "empty song", "neither"])
def test_null_and_empty_never_match(matched, case):
    assert matched[case] == [(None, None)]


def test_a_play_matches_by_the_artist_name_that_stands_in_the_song_record(matched):
    assert matched["name in the record"] == [("T4", "A1")]
    assert matched["name in artists"] == [(None, None)]


def test_a_play_matches_the_chosen_copy_of_a_song_alone(matched):
    assert matched["chosen copy"] == [("T5", "A1")]
    assert matched["copy not chosen"] == [(None, None)]
    assert matched["artist name of the chosen copy"] == [("T6", "A1")]
    assert matched["artist name of the copy not chosen"] == [(None, None)]


@pytest.mark.parametrize("join", [None, "shuffle_hash"])
def test_catalogues_of_any_size_match_alike(spark, matched, join):
    events = [
        event(itemInSession=number, location=case, song=title, artist=artist, length=length)
        for number, (case, (title, artist, length)) in enumerate(PLAYED.items())
    ]
    names = etl.songs_by_name(songs(spark, CATALOGUE))
    joined = etl.songplays_table(plays(spark, events), names, join=join)
    assert {row.location: [(row.song_id, row.artist_id)] for row in joined.collect()} == matched


# ---- Texts -----------------------------------------------------------------------------------------------


def test_a_user_agent_loses_its_wrapping_quotes(spark):
    expected = {
        '"Mozilla/5.0 (X11)"': "Mozilla/5.0 (X11)",
        "Mozilla/5.0 (X11)": "Mozilla/5.0 (X11)",
        '"Say \\"hi\\""': 'Say \\"hi\\"',
        '""twice""': '"twice"',
        '"before': '"before',
        'behind"': 'behind"',
        ' "outside" ': ' "outside" ',
        '"é😀"': "é😀",
        '"': '"',
        '""': None,
        "": None,
        None: None,
        ...: None,
    }
    found = judged_events(spark, {agent: event(userAgent=agent) for agent in expected})
    assert {agent: row.user_agent for agent, row in found.items()} == expected


def test_an_empty_text_is_null(spark):
    names = ["artist", "song", "level", "location", "userAgent", "firstName", "lastName", "gender"]
    columns = ["artist", "song", "level", "location", "user_agent", "first_name", "last_name", "gender"]
    (row,) = judged_events(spark, {"": event(**dict.fromkeys(names, ""))}).values()
    assert (row.reason, row.is_play) == (None, True)
    assert [row[column] for column in columns] == [None] * 8
    (row,) = judged_songs(spark, {"": song(artist_name="", artist_location="")}).values()
    assert (row.reason, row.artist_name, row.artist_location) == (None, None, None)


def test_texts_stay_as_they_are(spark):
    texts = {**dirty.ODD_TEXTS, "}": "}", "]": "]", "false": "false", "an array": "[1]", "a pair": '"}{"'}
    texts["an object on its own"] = "{}"
    for lines in (
        {name: json.dumps(event(song=text), ensure_ascii=False) for name, text in texts.items()},
        {name: json.dumps(event(song=text)) for name, text in texts.items()},
    ):
        found = judged_events(spark, lines)
        assert {name: (row.reason, row.song) for name, row in found.items()} == {n: (None, t) for n, t in texts.items()}
    found = judged_songs(spark, {name: song(title=text) for name, text in texts.items()})
    assert {name: (row.reason, row.title) for name, row in found.items()} == {n: (None, t) for n, t in texts.items()}


# ---- One of the copies -----------------------------------------------------------------------------------


def orders(records):
    """The records in three orders: as they are, backwards, shuffled."""
    yield records
    yield records[::-1]
    yield random.Random(1).sample(records, len(records))


def varied(number, base, choices, groups, copies):
    """Base rows with values from the choices: so many copies of each group, whose number the key is made of."""
    pick = random.Random(number)
    for group in range(groups):
        for _ in range(copies):
            yield group, {**base, **{name: pick.choice(values) for name, values in choices.items()}}


def test_of_the_copies_of_a_play_one_is_chosen_whatever_their_order(spark):
    choices = {
        **{name: ["x", "y", None] for name in ("level", "location", "userAgent", "firstName", "lastName", "gender")},
        "song": ["Twin", "Plain", None],
        "artist": ["Ann", "Bob"],
        "length": [100.0, 190.0, None],
    }
    # Copies that differ in everything, and copies that differ in one field alone.
    events = [{**record, "itemInSession": group} for group, record in varied(1, event(), choices, 40, 6)]
    for name, values in choices.items():
        base = event(song="Twin", artist="Ann", itemInSession=len(events), userId=str(len(events)))
        events += [{**base, name: value} for value in values]
    names = etl.songs_by_name(songs(spark, CATALOGUE)).cache()
    found = []
    for records in orders(events):
        play_rows = plays(spark, records).cache()
        found.append((rows(etl.songplays_table(play_rows, names)), rows(etl.users_table(play_rows))))
        play_rows.unpersist()
    names.unpersist()
    assert len(found[0][0]) == 40 + len(choices)
    for tables in found[1:]:
        assert tables == found[0]


def test_of_the_copies_of_a_song_and_of_an_artist_one_is_chosen_whatever_their_order(spark):
    choices = {
        **dict.fromkeys(("title", "artist_id"), ["x", "y", "z"]),
        **dict.fromkeys(("artist_name", "artist_location"), ["x", "y", None]),
        **dict.fromkeys(("artist_latitude", "artist_longitude", "duration"), [1.5, -2.0, None]),
        "year": [0, 1999, None],
    }
    records = [{**record, "song_id": f"S{group}"} for group, record in varied(2, song(), choices, 30, 6)]
    for number, (name, values) in enumerate(choices.items()):
        base = song(song_id=f"T{number}", artist_id=f"A{number}")
        records += [{**base, name: value} for value in values]
    found = []
    for ordered in orders(records):
        song_rows = songs(spark, ordered).cache()
        names = etl.songs_by_name(song_rows).selectExpr("song", "artist", "array_sort(songs) AS songs")
        found.append([rows(table) for table in (etl.songs_table(song_rows), etl.artists_table(song_rows), names)])
        song_rows.unpersist()
    for tables in found[1:]:
        assert tables == found[0]
    # What is chosen is a record, not the best of several.
    whole = {(r["song_id"], r["title"], r["artist_id"], r["duration"], r["year"]) for r in records}
    assert {tuple(row) for row in found[0][0]} <= whole
    columns = ("artist_id", "artist_name", "artist_location", "artist_latitude", "artist_longitude")
    assert {tuple(row) for row in found[0][1]} <= {tuple(record[name] for name in columns) for record in records}
    assert len({row.song_id for row in found[0][0]}) == len(found[0][0]) == 30 + len(choices)
    assert len({row.artist_id for row in found[0][1]}) == len(found[0][1])


def test_of_an_artists_names_the_smallest_is_chosen_and_null_is_larger_than_any(spark):
    names = {
        "A1": ["Ann feat. Bob", "Ann", "Zoe"],
        "A2": ["b", "a", "B"],
        "A3": ["z", "é"],
        "A4": ["😀", "\uff5e"],  # by UTF-8 bytes; Java's and UTF-16's order is the other one
        "A5": [None, "Ann"],
        "A6": [None, None],
    }
    records = [
        song(song_id=f"{artist} {number}", artist_id=artist, artist_name=name)
        for artist, artist_names in names.items()
        for number, name in enumerate(artist_names)
    ]
    chosen = {row.artist_id: row.name for row in etl.artists_table(songs(spark, records)).collect()}
    assert chosen == {"A1": "Ann", "A2": "B", "A3": "z", "A4": "\uff5e", "A5": "Ann", "A6": None}


# ---- Users -----------------------------------------------------------------------------------------------


def test_a_user_is_as_in_the_last_play(spark):
    def plays_by(user, *others):
        return [event(userId=user, **other) for other in others]

    events = [
        *plays_by("1", {"ts": 2, "level": "free"}, {"ts": 1, "level": "paid"}),
        *plays_by("2", {"ts": 1, "level": "paid"}, {"ts": 2, "level": "free"}),
        # At one moment the later item, and of equal items the larger session; numbers, not their digits.
        *plays_by("3", {"itemInSession": 9, "gender": "F"}, {"itemInSession": 10, "gender": "M"}),
        *plays_by("4", {"sessionId": 1000, "gender": "M"}, {"sessionId": 999, "gender": "F"}),
        *plays_by("5", {"itemInSession": 1, "sessionId": 9, "level": "free"}, {"itemInSession": 2, "sessionId": 1}),
        *plays_by("6", {"ts": 9, "itemInSession": 9, "level": "free"}, {"ts": 10, "itemInSession": 1}),
        # All from one play: what it doesn't say isn't filled in from another.
        *plays_by("7", {"ts": 1}, {"ts": 2, "firstName": None, "lastName": "", "gender": ..., "level": "free"}),
        # The last event is no play.
        *plays_by("8", {"ts": 1, "level": "free"}, {"ts": 2, "page": "Home", "level": "paid"}),
        *plays_by("9", {"page": "Home"}),
    ]
    found = {row.user_id: tuple(row[1:]) for row in rows(etl.users_table(plays(spark, events)))}
    lily = ("Lily", "Koch", "F")
    assert found == {
        1: (*lily, "free"),
        2: (*lily, "free"),
        3: ("Lily", "Koch", "M", "paid"),
        4: ("Lily", "Koch", "M", "paid"),
        5: (*lily, "paid"),
        6: (*lily, "paid"),
        7: (None, None, None, "free"),
        8: (*lily, "free"),
    }


def test_users_and_songplays_choose_the_same_copy_of_a_play(spark):
    choices = {"level": ["free", "paid", None], "location": ["x", "y", None], "firstName": ["x", "y", None]}
    events = [{**record, "userId": str(group)} for group, record in varied(3, event(), choices, 30, 4)]
    play_rows = plays(spark, events)
    played = etl.songplays_table(play_rows, etl.songs_by_name(songs(spark, [])))
    levels = {row.user_id: row.level for row in played.collect()}
    assert {row.user_id: row.level for row in etl.users_table(play_rows).collect()} == levels


# ---- Songs -----------------------------------------------------------------------------------------------


def test_a_song_and_an_artist_are_one_row_each(spark):
    records = [song(), song(), song(song_id="S2"), song(song_id="S3", artist_id="A2", artist_name="Ann", year=1999)]
    song_rows = songs(spark, records)
    assert [tuple(row) for row in rows(etl.songs_table(song_rows))] == [
        ("S2", "Setanta matins", "AR5KOSW1187FB35FF4", 269.58322, 0),
        ("S3", "Setanta matins", "A2", 269.58322, 1999),
        ("SOZCTXZ12AB0182364", "Setanta matins", "AR5KOSW1187FB35FF4", 269.58322, 0),
    ]
    assert [tuple(row) for row in rows(etl.artists_table(song_rows))] == [
        ("A2", "Ann", "Dubai UAE", 49.80388, 15.47491),
        ("AR5KOSW1187FB35FF4", "Elena", "Dubai UAE", 49.80388, 15.47491),
    ]


# ---- Rejected records ------------------------------------------------------------------------------------

LINE = json.dumps(BASE_EVENT)
SONG_LINE = json.dumps(BASE_SONG)


def broken(line):
    """What isn't one JSON object, made of a line that is."""
    return {
        "two objects": line + line,
        "two objects, a space between": f"{line} {line}",
        "two objects, a line feed between": f"{line}\n{line}",
        "two objects, a comma between": f"{line},{line}",
        "an object and an empty one": line + "{}",
        "an array": f"[{line}]",
        "an array of two": f"[{line}, {line}]",
        "an empty array": "[]",
        "a string": json.dumps(line),
        "a number": "42",
        "true": "true",
        "null": "null",
        "truncated": line[:-1],
        "truncated in a string": line[: line.index("Elena") + 2],
        "a brace": "{",
        "a brace more": line + "}",
        "garbage behind": line + " x",
        "a scalar behind": line + " 1",
        "a string behind": line + ' "x"',
        "an array behind": line + "[]",
        "garbage before": "x" + line,
        "single quotes": repr(json.loads(line)),
        "NaN": raw(json.loads(line), "extra", "NaN"),
        "Infinity": raw(json.loads(line), "extra", "-Infinity"),
        "a bare key": line[:-1] + ", extra: 1}",
        "a comma too many": line[:-1] + ",}",
        "a comment": line + " // x",
        "plain text": "WARN events: queue is full",
        "a quote": '"',
    }


def test_a_line_that_is_not_one_json_object_is_rejected(spark):
    cases = broken(LINE)
    found = judged_events(spark, cases)
    assert {case: row.reason for case, row in found.items()} == dict.fromkeys(cases, "not one JSON object")
    assert not any(row.is_play for row in found.values())


def test_a_song_file_that_is_not_one_json_object_is_rejected(spark):
    cases = {**broken(SONG_LINE), "empty": "", "blank": " \n"}
    found = judged_songs(spark, cases)
    assert {case: row.reason for case, row in found.items()} == dict.fromkeys(cases, "not one JSON object")


def test_a_rejected_record_keeps_its_source_and_its_raw_text(spark):
    lines = [LINE, "no JSON \u2028 é😀\t", raw(BASE_EVENT, "ts", "null"), json.dumps(event(page="Home")), ""]
    found = [(row.source, row.raw) for row in etl.event_records(raw_rows(spark, lines)).collect()]
    nothing = (None, None)
    assert found == [nothing, ("source 1", lines[1]), ("source 2", lines[2]), nothing, ("source 4", "")]
    texts = [SONG_LINE, "{\n}", "[\n" + SONG_LINE + "\n]"]
    found = [(row.source, row.raw) for row in etl.song_records(raw_rows(spark, texts)).collect()]
    assert found == [nothing, ("source 1", texts[1]), ("source 2", texts[2])]


NO_TEXT = {"null": "null", "empty": '""', "true": "true", "false": "false", "an array": "[1]", "an object": '{"a": 1}'}


def test_a_line_without_a_page_is_rejected(spark):
    cases = {case: raw(BASE_EVENT, "page", literal) for case, literal in NO_TEXT.items()}
    cases.update({"missing": event(page=...), "an array of it": event(page=["NextSong"])})
    cases["no field at all"] = "{}"
    found = judged_events(spark, cases)
    assert {case: row.reason for case, row in found.items()} == dict.fromkeys(cases, "no page")


NO_WHOLE_NUMBER = {
    **NO_TEXT,
    "[]": "[]",
    "{}": "{}",
    "12.0": "12.0",
    "'12.0'": '"12.0"',
    "12.5": "12.5",
    "' 7'": '" 7"',
    "'7 '": '"7 "',
    "'+7'": '"+7"',
    "'-7'": '"-7"',
    "-1": "-1",
    "'-0'": '"-0"',
    "1e3": "1e3",
    "'1e3'": '"1e3"',
    "2^63": "9223372036854775808",
    "'2^63'": '"9223372036854775808"',
    "forty digits": "1" * 40,
    "'7a'": '"7a"',
    "'7L'": '"7L"',
    "'0x10'": '"0x10"',
    "'1_000'": '"1_000"',
    "'1,000'": '"1,000"',
    "'1 000'": '"1 000"',
    "'7d'": '"7d"',
    "full-width": '"７"',
    "Arabic": '"٣"',
    "NaN": '"NaN"',
    "'null'": '"null"',
    "'true'": '"true"',
    "'[7]'": '"[7]"',
    "a tab": r'"\t7"',
    "a NUL": r'"7\u00007"',
}
KEYS = ("userId", "sessionId", "itemInSession", "ts")


def test_a_play_whose_key_is_not_of_whole_numbers_is_rejected(spark):
    cases = {(key, case): raw(BASE_EVENT, key, literal) for key in KEYS for case, literal in NO_WHOLE_NUMBER.items()}
    cases.update({(key, "missing"): event(**{key: ...}) for key in KEYS})
    found = judged_events(spark, cases)
    assert {case: row.reason for case, row in found.items()} == {case: f"no whole {case[0]}" for case in cases}


def test_a_key_may_be_a_number_or_a_string_of_digits(spark):
    numbers = {"7": 7, '"7"': 7, '"007"': 7, "0": 0, '"0"': 0, '"' + "0" * 40 + '7"': 7, " 7 ": 7}
    largest = {str(BIGINT_MAX): BIGINT_MAX, f'"{BIGINT_MAX}"': BIGINT_MAX}
    cases = {
        (column, literal): (raw(BASE_EVENT, key, literal), number)
        for key, column in zip(KEYS, ("user_id", "session_id", "item_in_session", "ts"))
        for literal, number in {**numbers, **(largest if key != "ts" else {})}.items()
    }
    found = judged_events(spark, {case: line for case, (line, _) in cases.items()})
    for case, row in found.items():
        assert (case, row.reason, row.is_play, row[case[0]]) == (case, None, True, cases[case][1])


def test_a_play_is_from_1970_to_the_end_of_2100(spark):
    moments = {0: None, LAST_MS: None, LAST_MS + 1: "ts after the year 2100", BIGINT_MAX: "ts after the year 2100"}
    found = judged_events(spark, {moment: event(ts=moment) for moment in moments})
    assert {moment: row.reason for moment, row in found.items()} == moments
    times = rows(etl.time_table(plays(spark, [event(ts=moment) for moment in moments])))
    assert [row.start_time for row in times] == ["1970-01-01 00:00:00", "2100-12-31 23:59:59.999"]


def test_other_pages_are_not_looked_into(spark):
    cases = {
        (key, case): raw(event(page="Login"), key, literal) for key in KEYS for case, literal in NO_WHOLE_NUMBER.items()
    }
    cases["after 2100"] = event(page="Login", ts=LAST_MS + 1)
    cases["a page alone"] = '{"page": "Login"}'
    found = judged_events(spark, cases)
    assert {case: (row.reason, row.is_play) for case, row in found.items()} == dict.fromkeys(cases, (None, False))


def test_a_song_without_song_id_artist_id_or_title_is_rejected(spark):
    cases = {
        (key, case): raw(BASE_SONG, key, literal)
        for key in ("song_id", "artist_id", "title")
        for case, literal in NO_TEXT.items()
    }
    cases.update({(key, "missing"): song(**{key: ...}) for key in ("song_id", "artist_id", "title")})
    found = judged_songs(spark, cases)
    assert {case: row.reason for case, row in found.items()} == {case: f"no {case[0]}" for case in cases}


def test_a_pretty_printed_song_is_a_record(spark):
    cases = {"indented": json.dumps(BASE_SONG, indent=4), "CRLF": json.dumps(BASE_SONG, indent=4).replace("\n", "\r\n")}
    cases["one line"] = SONG_LINE
    found = judged_songs(spark, cases)
    assert set(found.values()) == {found["one line"]}
    assert (found["one line"].reason, found["one line"].title) == (None, "Setanta matins")


# ---- Wrong types in other fields -------------------------------------------------------------------------

EVENT_COLUMNS = {
    **{name: name for name in ("artist", "song", "level", "location", "gender", "length")},
    **{"userAgent": "user_agent", "firstName": "first_name", "lastName": "last_name"},
}
SONG_COLUMNS = ("artist_name", "artist_location", "artist_latitude", "artist_longitude", "duration", "year")
NO_NUMBER = {**NO_TEXT, "text": '"269.5"', "1e400": "1e400", "-1e400": "-1e400"}
NO_INT = {**NO_NUMBER, "2000.0": "2000.0", "2e3": "2e3", "2^31": "2147483648"}
NESTED = {"nested": '{"song": {"artist": [true]}, "page": "Home"}', "an array of objects": '[{"page": "Home"}, [[]]]'}


def assert_null_alone(found, plain, column_of):
    """Each case (field, …) has a null in that field's column and differs from the plain row in nothing else."""
    for case, row in found.items():
        column = column_of[case[0]]
        assert (case, row.asDict()) == (case, {**plain.asDict(), column: None})


def test_a_wrong_type_in_another_field_of_an_event_makes_that_field_null_alone(spark):
    cases = {
        (name, case): raw(BASE_EVENT, name, literal)
        for name in EVENT_COLUMNS
        for case, literal in {**(NO_NUMBER if name == "length" else NO_TEXT), **NESTED}.items()
    }
    cases.update({(name, "missing"): event(**{name: ...}) for name in EVENT_COLUMNS})
    found = judged_events(spark, {"plain": event(), **cases})
    plain = found.pop("plain")
    assert plain.is_play
    assert_null_alone(found, plain, EVENT_COLUMNS)


def test_a_wrong_type_in_another_field_of_a_song_makes_that_field_null_alone(spark):
    wrong = {"artist_name": NO_TEXT, "artist_location": NO_TEXT, "year": NO_INT}
    cases = {
        (name, case): raw(BASE_SONG, name, literal)
        for name in SONG_COLUMNS
        for case, literal in {**wrong.get(name, NO_NUMBER), **NESTED}.items()
    }
    cases.update({(name, "missing"): song(**{name: ...}) for name in SONG_COLUMNS})
    found = judged_songs(spark, {"plain": song(), **cases})
    plain = found.pop("plain")
    assert plain.reason is None
    assert_null_alone(found, plain, dict(zip(SONG_COLUMNS, SONG_COLUMNS)))


def test_a_wrong_type_in_one_field_does_not_hide_a_text_that_looks_like_one(spark):
    odd = ("true", "false", "[1]", "{}", '{"a": 1}', "[", "null")
    cases = {
        (literal, text): dump_raw(event(song=text, location=text), "artist", literal).decode()
        for literal, text in itertools.product(NO_TEXT.values(), odd)
    }
    found = judged_events(spark, cases)
    for (literal, text), row in found.items():
        assert (literal, row.reason, row.artist, row.song, row.location) == (literal, None, None, text, text)


def test_several_wrong_types_in_one_record_are_null_each(spark):
    wrong = event(artist=True, song=[1], level={"a": 1}, location=False, length="x", userAgent=[], firstName={})
    row = judged_events(spark, {"": wrong})[""]
    columns = ("artist", "song", "level", "location", "length", "user_agent", "first_name")
    assert [row[column] for column in columns] == [None] * 7
    assert (row.reason, row.is_play, row.last_name, row.gender) == (None, True, "Koch", "F")


def test_a_number_in_a_text_field_is_its_text_or_null(spark):
    row = judged_events(spark, {"": event(song=42, location=-7)})[""]
    assert row.reason is None
    assert row.song in ("42", None)
    assert row.location in ("-7", None)


def test_fields_that_nobody_asked_for_are_passed_by(spark):
    extra = {"extra": {"page": "Home", "ts": [{}, 1.5]}, "PAGE": "Home", "userid": "16", "": 1, "song_id": True}
    row, plain = judged_events(spark, {"extra": {**extra, **BASE_EVENT, "more": "}{"}, "plain": event()}).values()
    assert row == plain
    row, plain = judged_songs(spark, {"extra": {**BASE_SONG, "TITLE": "x", "more": [[]]}, "plain": song()}).values()
    assert row == plain


def test_every_kind_of_dirt_has_the_effect_that_it_was_made_for(spark):
    blank = ("byte order mark", "blank lines around", "spaces between")  # which reading takes away, see below
    for kinds_of, base, judge, offset in (
        (dirty.EVENT_KINDS, BASE_EVENT, judged_events, "is_play"),
        (dirty.SONG_KINDS, BASE_SONG, judged_songs, None),
    ):
        effects = {(effect, name): make for effect, kinds in kinds_of.items() for name, make in kinds.items()}
        effects = {case: make for case, make in effects.items() if not case[1].startswith(blank)}
        lines = {case: make(base, random.Random(1)).decode(errors="replace") for case, make in effects.items()}
        found = judge(spark, lines)
        wrong = {
            case: row.reason
            for case, row in found.items()
            if (row.reason is not None) != (case[0] == "rejected")
            or (offset and row.is_play != (case[0] in ("kept", "duplicate")))
        }
        assert wrong == {}


# ---- Reading ---------------------------------------------------------------------------------------------


def read_lines(spark, folder):
    return [row.raw for row in etl.read_lines(spark, etl.find_files(str(folder), "log")).collect()]


def test_a_line_ends_with_a_line_feed_or_crlf_and_nothing_else(spark, tmp_path):
    texts = ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e", "\r"]
    lines = [f'{{"page": "one{text}two"}}' for text in texts]
    folder = tmp_path / "log_data"
    folder.mkdir()
    (folder / "lf.json").write_bytes("\n".join(lines).encode())
    (folder / "crlf.json").write_bytes("\r\n".join(lines + [""]).encode())
    assert sorted(read_lines(spark, tmp_path)) == sorted(lines * 2)


def test_what_is_no_line_is_no_record(spark, tmp_path):
    folder = tmp_path / "log_data" / "2018"
    folder.mkdir(parents=True)
    (folder / "marked.json").write_bytes(b"\xef\xbb\xbf" + b'{"page": "A"}\n')
    (folder / "blank.json").write_bytes(b"\n\r\n \t \n")
    (folder / "between.json").write_bytes(b'\n{"page": "B"}\n\n \n{"page": "C"}')
    (folder / "marked-blank.json").write_bytes(b"\xef\xbb\xbf\n")
    (folder / "empty.json").write_bytes(b"")
    (folder / "other-bytes.json").write_bytes(b'{"page": "\xff\xe9"}\n')
    for name in ("_hidden.json", ".hidden.json", "notes.txt", "x.json.bak"):
        (folder / name).write_text('{"page": "hidden"}\n')
    pages = ["A", "B", "C", "\ufffd\ufffd"]
    assert sorted(read_lines(spark, tmp_path)) == [f'{{"page": "{page}"}}' for page in pages]


def test_a_song_file_is_one_record_whatever_is_around_it(spark, tmp_path):
    folder = tmp_path / "song_data" / "A"
    folder.mkdir(parents=True)
    pretty = json.dumps(BASE_SONG, indent=2).encode()
    contents = {
        "pretty": pretty,
        "marked": b"\xef\xbb\xbf" + pretty + b"\r\n",
        "blanks": b"\n\r\n \t" + dirty.dump(BASE_SONG) + b" \t\n\n",
        "empty": b"",
        "blank": b" \r\n",
        "two": dirty.dump(BASE_SONG) + b"\n" + dirty.dump(BASE_SONG) + b"\n",
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_bytes(content)
    raw_songs = etl.read_songs(spark, etl.find_files(str(tmp_path), "song"))
    found = etl.song_records(raw_songs).collect()
    assert [row.title for row in found if row.reason is None] == ["Setanta matins"] * 3
    assert sorted(row.source.split("/")[-1] for row in found if row.reason) == ["blank.json", "empty.json", "two.json"]
    assert {row.reason for row in found} == {None, "not one JSON object"}


def test_murmur3_is_the_hash_by_which_spark_places_rows(spark):
    hashes = spark.range(300).selectExpr("hash(cast(id AS int)) AS hash").collect()
    assert [row["hash"] for row in hashes] == [etl.murmur3(value) for value in range(300)]
