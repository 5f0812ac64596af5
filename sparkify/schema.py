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
    """What a written table looks like, and what a catalogue or a database is told of it and of its columns.

    columns: {name: (type, description)}, in order. never_null: columns besides the key. references: {column: the table
    whose key it is}.
    """

    description: str
    columns: dict[str, tuple[str, str]]
    key: str
    partitions: tuple[str, ...] = ()
    never_null: tuple[str, ...] = ()
    references: dict[str, str] = {}

    @property
    def types(self) -> dict[str, str]:
        """{column: its type}, in order."""
        return {name: kind for name, (kind, _) in self.columns.items()}


TABLES: dict[str, Contract] = {
    "songplays": Contract(
        "One row a play of a song: an event of the app's log whose page is NextSong.",
        {
            "songplay_id": ("bigint", "Key: a hash of user, session, item in session and time; the same in every run."),
            "start_time": ("timestamp", "When the play began, UTC."),
            "user_id": ("bigint", "Who listened: users.user_id."),
            "level": ("string", "What the user paid for then: free or paid."),
            "song_id": ("string", "The song of the play's title and artist: songs.song_id; null where there is none."),
            "artist_id": ("string", "That song's artist: artists.artist_id; null where there is no song."),
            "session_id": ("bigint", "The user's sitting; together with user_id it names one."),
            "location": ("string", "Where the user was."),
            "user_agent": ("string", "The user's browser and device, as the app was told."),
            "year": ("int", "The year of start_time, UTC."),
            "month": ("int", "The month of start_time, UTC: 1 to 12."),
        },
        key="songplay_id",
        partitions=("year", "month"),
        never_null=("start_time", "user_id", "session_id", "year", "month"),
        references={"start_time": "time", "user_id": "users", "song_id": "songs", "artist_id": "artists"},
    ),
    "users": Contract(
        "One row a user with a play; names, gender and level are those of the user's last play.",
        {
            "user_id": ("bigint", "Key."),
            "first_name": ("string", "First name."),
            "last_name": ("string", "Last name."),
            "gender": ("string", "Gender: F or M."),
            "level": ("string", "What the user paid for at the last play: free or paid."),
        },
        key="user_id",
    ),
    "songs": Contract(
        "One row a song of the catalogue.",
        {
            "song_id": ("string", "Key."),
            "title": ("string", "Title."),
            "artist_id": ("string", "Who plays it: artists.artist_id."),
            "duration": ("double", "Duration in seconds."),
            "year": ("int", "Year of release; 0 where it is unknown, null where it was no number."),
        },
        key="song_id",
        partitions=("year",),
        never_null=("title", "artist_id"),
        references={"artist_id": "artists"},
    ),
    "artists": Contract(
        "One row an artist of the catalogue.",
        {
            "artist_id": ("string", "Key."),
            "name": ("string", "Name."),
            "location": ("string", "Where the artist comes from."),
            "latitude": ("double", "Latitude of that place, degrees."),
            "longitude": ("double", "Longitude of that place, degrees."),
        },
        key="artist_id",
    ),
    "time": Contract(
        "One row a moment at which a play began, taken apart in UTC.",
        {
            "start_time": ("timestamp", "Key: when a play began, UTC."),
            "hour": ("int", "Hour, UTC: 0 to 23."),
            "day": ("int", "Day of the month: 1 to 31."),
            "week": ("int", "ISO week: 1 to 53."),
            "month": ("int", "Month: 1 to 12."),
            "year": ("int", "Year."),
            "weekday": ("int", "Day of the week: 1 for Monday to 7 for Sunday."),
        },
        key="start_time",
        partitions=("year", "month"),
        never_null=("hour", "day", "week", "month", "year", "weekday"),
    ),
}
FOLDERS = (*TABLES, "_rejected")  # what a run stages and publishes
