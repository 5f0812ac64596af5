"""The contract: the fields that are read, and the columns, the key and the partitions of each table that is written.

All other places that a new column needs: 'Adding a column' in tests/README.md.
"""

from typing import NamedTuple

# Field of a JSON object -> (column of its record, type). Of a record's copies, the one is chosen that is first by these
# columns in this order: see PLAY_VALUES, SONG_VALUES, ARTIST_VALUES.
EVENT_FIELDS: dict[str, tuple[str, str]] = {
    "userId": ("user_id", "bigint"),
    "sessionId": ("session_id", "bigint"),
    "itemInSession": ("item_in_session", "bigint"),
    "ts": ("ts", "bigint"),  # ms since the epoch, UTC
    "level": ("level", "string"),
    "location": ("location", "string"),
    "userAgent": ("user_agent", "string"),
    "song": ("song", "string"),
    "artist": ("artist", "string"),
    "length": ("length", "double"),  # s
    "firstName": ("first_name", "string"),
    "lastName": ("last_name", "string"),
    "gender": ("gender", "string"),
}
SONG_FIELDS: dict[str, tuple[str, str]] = {
    "song_id": ("song_id", "string"),
    "title": ("title", "string"),
    "artist_id": ("artist_id", "string"),
    "year": ("year", "int"),  # 0: unknown
    "duration": ("duration", "double"),  # s
    "artist_name": ("artist_name", "string"),
    "artist_location": ("artist_location", "string"),
    "artist_latitude": ("artist_latitude", "double"),  # degrees
    "artist_longitude": ("artist_longitude", "double"),  # degrees
}
# The first of EVENT_FIELDS, in the order in which songplay_id hashes them: another order gives other ids.
PLAY_KEY = ["user_id", "session_id", "item_in_session", "ts"]
USER_VALUES = ["first_name", "last_name", "gender"]  # columns of a play that songplays hasn't got
SONGPLAY_VALUES: list[str] = [
    column for column, _ in EVENT_FIELDS.values() if column not in PLAY_KEY and column not in USER_VALUES
]
PLAY_VALUES: list[str] = [*SONGPLAY_VALUES, *USER_VALUES]  # in this order songplays and users choose the same copy
SONG_VALUES: list[str] = [column for column, _ in SONG_FIELDS.values() if column != "song_id"]
ARTIST_VALUES: list[str] = [column for column in SONG_VALUES if column.startswith("artist_") and column != "artist_id"]

# The columns of each record before its fields. reason: why it is rejected, null where it is used; source and raw: the
# file and the text, null where it is used. others: of a row that stands for events that are no plays, their number.
RECORD_COLUMNS: dict[str, str] = {"reason": "string", "source": "string", "raw": "string", "others": "bigint"}
RECORDS: dict[str, dict[str, str]] = {
    "songs": {**RECORD_COLUMNS, **dict(SONG_FIELDS.values())},
    # is_latest: of a play, whether the rows read together have no later one of its user. users is made of these alone.
    "logs": {**RECORD_COLUMNS, **dict(EVENT_FIELDS.values()), "is_latest": "boolean"},
}


class Contract(NamedTuple):
    """What a written table looks like: its columns in order, its key, its partition columns."""

    columns: str
    key: str
    partitions: tuple[str, ...] = ()

    @property
    def types(self) -> dict[str, str]:
        """{column: its type}, in order."""
        return dict(column.split() for column in self.columns.split(", "))


TABLES: dict[str, Contract] = {
    "songplays": Contract(
        "songplay_id bigint, start_time timestamp, user_id bigint, level string, song_id string, artist_id string, "
        "session_id bigint, location string, user_agent string, year int, month int",
        "songplay_id",
        ("year", "month"),
    ),
    "users": Contract("user_id bigint, first_name string, last_name string, gender string, level string", "user_id"),
    "songs": Contract(
        "song_id string, title string, artist_id string, duration double, year int", "song_id", ("year",)
    ),
    "artists": Contract(
        "artist_id string, name string, location string, latitude double, longitude double", "artist_id"
    ),
    "time": Contract(
        "start_time timestamp, hour int, day int, week int, month int, year int, weekday int",
        "start_time",
        ("year", "month"),
    ),
}
# What a database is told besides: the columns that are never null (a key isn't), and the keys that columns refer to.
NOT_NULL: dict[str, tuple[str, ...]] = {
    "songplays": ("start_time", "user_id", "session_id", "year", "month"),
    "songs": ("title", "artist_id"),
    "time": ("hour", "day", "week", "month", "year", "weekday"),
}
REFERENCES: dict[str, dict[str, str]] = {  # table -> {column: the table whose key it is}
    "songplays": {"start_time": "time", "user_id": "users", "song_id": "songs", "artist_id": "artists"},
    "songs": {"artist_id": "artists"},
}
# What a catalogue or a database says of a table and its columns: table -> (text, {column: text}).
DESCRIPTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "songplays": (
        "One row a play of a song: an event of the app's log whose page is NextSong.",
        {
            "songplay_id": "Key: a hash of user, session, item in the session and time, the same in every run.",
            "start_time": "When the play began, UTC.",
            "user_id": "Who listened: users.user_id.",
            "level": "What the user paid for then: free or paid.",
            "song_id": "The song that has the play's title and artist: songs.song_id; null where there is none.",
            "artist_id": "That song's artist: artists.artist_id; null where there is no song.",
            "session_id": "The user's sitting; together with user_id it names one.",
            "location": "Where the user was.",
            "user_agent": "The user's browser and device, as the app was told.",
            "year": "The year of start_time, UTC.",
            "month": "The month of start_time, UTC: 1 to 12.",
        },
    ),
    "users": (
        "One row a user with a play; names, gender and level are those of the user's last play.",
        {
            "user_id": "Key.",
            "first_name": "First name.",
            "last_name": "Last name.",
            "gender": "Gender: F or M.",
            "level": "What the user paid for at the last play: free or paid.",
        },
    ),
    "songs": (
        "One row a song of the catalogue.",
        {
            "song_id": "Key.",
            "title": "Title.",
            "artist_id": "Who plays it: artists.artist_id.",
            "duration": "Duration in seconds.",
            "year": "Year of release; 0 where it is unknown, null where it was no number.",
        },
    ),
    "artists": (
        "One row an artist of the catalogue.",
        {
            "artist_id": "Key.",
            "name": "Name.",
            "location": "Where the artist comes from.",
            "latitude": "Latitude of that place, degrees.",
            "longitude": "Longitude of that place, degrees.",
        },
    ),
    "time": (
        "One row a moment at which a play began, taken apart in UTC.",
        {
            "start_time": "Key: when a play began, UTC.",
            "hour": "Hour, UTC: 0 to 23.",
            "day": "Day of the month: 1 to 31.",
            "week": "ISO week: 1 to 53.",
            "month": "Month: 1 to 12.",
            "year": "Year.",
            "weekday": "Day of the week: 1 for Monday to 7 for Sunday.",
        },
    ),
}
FOLDERS = (*TABLES, "_rejected")  # what a run stages and publishes
