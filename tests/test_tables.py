"""The rules of the tables, on rows made for each.

A query costs more than its rows, so the cases of a rule go through one query.
"""

import datetime
import random
import time

import oracle
import pytest
from dirty import BASE_EVENT, event, song, write_input
from rows import plays, rows, songplays, songs
from tables import COLUMNS

import etl

BIGINT_MAX = 2**63 - 1
LAST_MS = 4133980799999  # the last of the year 2100


def ms(*moment):
    """Milliseconds since the epoch of a moment in UTC: year, month, day, hour, minute, second."""
    return int(datetime.datetime(*moment, tzinfo=datetime.timezone.utc).timestamp() * 1000)


def test_a_session_of_somebody_else_gets_the_zone_of_the_tables(spark, tmp_path):
    source = write_input(tmp_path / "in", [song()], [event(ts=ms(2018, 11, 1, 0, 30))])
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        etl.process_log_data(spark, source, tmp_path / "lake")
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    assert (tmp_path / "lake/songplays/year=2018/month=11").is_dir()


# --- Contracts ----------------------------------------------------------------------------------------------


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
    assert list(etl.TABLES[name].types.items()) == table.dtypes


# --- Time ---------------------------------------------------------------------------------------------------


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


# --- Plays --------------------------------------------------------------------------------------------------


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


# --- Matching -----------------------------------------------------------------------------------------------

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


# --- One of the copies --------------------------------------------------------------------------------------


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


# --- Users --------------------------------------------------------------------------------------------------


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


# --- Songs --------------------------------------------------------------------------------------------------


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
