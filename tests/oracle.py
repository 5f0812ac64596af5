"""The five tables computed a second time, by DuckDB SQL over the raw text, for the tests to compare with.

Shares no code with etl.py. Python finds the files, splits them into texts of one record each and hashes the play
keys; everything else, from the types of values to the choice among copies, is SQL.

A record is a log line or a song file; an object is a record that is one JSON object; a play is an event whose
page is NextSong; an accepted song has song_id, artist_id and title; rejected is what can't be used.
"""

import gzip
import json
import os
import re
import zipfile
from functools import lru_cache
from pathlib import Path

import duckdb

TS_END = 4133980800000  # 2101-01-01 in ms since the epoch
CHUNK = 1 << 25  # characters of raw text handed to DuckDB at once

# ---- Fields: column -> (key in the JSON, the macro that reads it) ----------------------------------------

SONG_FIELDS = {
    "song_id": ("song_id", "as_text"),
    "title": ("title", "as_text"),
    "artist_id": ("artist_id", "as_text"),
    "year": ("year", "as_int32"),
    "duration": ("duration", "as_double"),
    "artist_name": ("artist_name", "as_text"),
    "artist_location": ("artist_location", "as_text"),
    "artist_latitude": ("artist_latitude", "as_double"),
    "artist_longitude": ("artist_longitude", "as_double"),
}
EVENT_FIELDS = {
    "page": ("page", "as_text"),
    "user_id": ("userId", "as_key"),
    "session_id": ("sessionId", "as_key"),
    "item_in_session": ("itemInSession", "as_key"),
    "ts": ("ts", "as_key"),
    "level": ("level", "as_text"),
    "location": ("location", "as_text"),
    "user_agent": ("userAgent", "as_agent"),
    "song": ("song", "as_text"),
    "artist": ("artist", "as_text"),
    "length": ("length", "as_double"),
    "first_name": ("firstName", "as_text"),
    "last_name": ("lastName", "as_text"),
    "gender": ("gender", "as_text"),
}
PLAY_KEY = "user_id, session_id, item_in_session, ts"

# ---- SQL -------------------------------------------------------------------------------------------------

# A JSON number reaches a macro as its text: an integer beyond 64 bits has the type DOUBLE but only digits,
# any other DOUBLE has a point or an exponent (12.0 stays 12.0, 1e3 becomes 1000.0).
MACROS = r"""
CREATE MACRO is_number(type) AS type IN ('BIGINT', 'UBIGINT', 'HUGEINT', 'UHUGEINT', 'DOUBLE');
CREATE MACRO is_integer(type, t) AS
  coalesce(is_number(type) AND regexp_full_match(t, '-?[0-9]+'), false);
CREATE MACRO as_text(type, t) AS CASE WHEN type = 'VARCHAR' OR is_integer(type, t) THEN nullif(t, '') END;
CREATE MACRO unwrap(t) AS CASE WHEN t LIKE '"%"' THEN substr(t, 2, length(t) - 2) ELSE t END;
CREATE MACRO as_agent(type, t) AS nullif(unwrap(as_text(type, t)), '');
CREATE MACRO finite(d) AS CASE WHEN isfinite(d) THEN d END;
CREATE MACRO is_numeral(type, t) AS coalesce(is_number(type) OR
  (type = 'VARCHAR' AND regexp_full_match(t, '-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?')), false);
CREATE MACRO as_double(type, t) AS CASE WHEN is_numeral(type, t) THEN finite(TRY_CAST(t AS DOUBLE)) END;
CREATE MACRO whole(d, least, most) AS CASE WHEN d = floor(d) AND d BETWEEN least AND most THEN CAST(d AS BIGINT) END;
CREATE MACRO as_int32(type, t) AS CAST(whole(as_double(type, t), -2147483648, 2147483647) AS INTEGER);
CREATE MACRO not_negative(n) AS CASE WHEN n >= 0 THEN n END;
CREATE MACRO as_key(type, t) AS
  CASE WHEN is_integer(type, t) OR (type = 'VARCHAR' AND regexp_full_match(t, '[0-9]+'))
       THEN not_negative(TRY_CAST(t AS BIGINT))
       WHEN type = 'VARCHAR' AND regexp_full_match(t, '[0-9]+\.0+')
       THEN whole(TRY_CAST(split_part(t, '.', 1) AS BIGINT), 0, 9007199254740991)
       WHEN type = 'DOUBLE' THEN whole(TRY_CAST(t AS DOUBLE), 0, 9007199254740991) END;
"""

TABLES = f"""
CREATE TABLE accepted_songs AS
  SELECT * FROM song_objects WHERE song_id IS NOT NULL AND artist_id IS NOT NULL AND title IS NOT NULL;

CREATE TABLE chosen_songs AS
  SELECT * FROM accepted_songs
  QUALIFY row_number() OVER (PARTITION BY song_id ORDER BY
    title ASC NULLS LAST, artist_id ASC NULLS LAST, year ASC NULLS LAST, duration ASC NULLS LAST,
    artist_name ASC NULLS LAST, artist_location ASC NULLS LAST,
    artist_latitude ASC NULLS LAST, artist_longitude ASC NULLS LAST) = 1;

CREATE TABLE chosen_artists AS
  SELECT artist_id, artist_name, artist_location, artist_latitude, artist_longitude FROM accepted_songs
  QUALIFY row_number() OVER (PARTITION BY artist_id ORDER BY
    artist_name ASC NULLS LAST, artist_location ASC NULLS LAST,
    artist_latitude ASC NULLS LAST, artist_longitude ASC NULLS LAST) = 1;

CREATE TABLE event_kinds AS
  SELECT *, CASE
    WHEN page IS NULL THEN 'rejected'
    WHEN page <> 'NextSong' THEN 'not a play'
    WHEN user_id IS NULL OR session_id IS NULL OR item_in_session IS NULL OR ts IS NULL THEN 'rejected'
    WHEN ts >= {TS_END} THEN 'rejected'
    ELSE 'play' END AS event_kind
  FROM event_objects;

CREATE TABLE plays AS
  SELECT *, make_timestamp(ts * 1000) AS start_time FROM event_kinds WHERE event_kind = 'play'
  QUALIFY row_number() OVER (PARTITION BY {PLAY_KEY} ORDER BY
    level ASC NULLS LAST, location ASC NULLS LAST, user_agent ASC NULLS LAST, song ASC NULLS LAST,
    artist ASC NULLS LAST, length ASC NULLS LAST, first_name ASC NULLS LAST, last_name ASC NULLS LAST,
    gender ASC NULLS LAST) = 1;

CREATE TABLE matched AS
  SELECT p.*, s.song_id, s.artist_id
  FROM plays p LEFT JOIN chosen_songs s ON s.title = p.song AND s.artist_name = p.artist
  QUALIFY row_number() OVER (PARTITION BY {PLAY_KEY} ORDER BY
    coalesce(abs(s.duration - p.length), 'inf'::DOUBLE) ASC, s.song_id ASC NULLS LAST) = 1;

CREATE TABLE rejected AS
  SELECT kind, raw FROM records WHERE NOT is_object
  UNION ALL
  SELECT 'logs', raw FROM event_kinds WHERE event_kind = 'rejected'
  UNION ALL
  SELECT 'songs', raw FROM song_objects WHERE song_id IS NULL OR artist_id IS NULL OR title IS NULL;
"""

SELECTS = {
    "songplays": f"""
        SELECT {PLAY_KEY}, start_time, user_id, level, song_id, artist_id, session_id, location, user_agent,
               year(start_time)::INTEGER, month(start_time)::INTEGER FROM matched""",
    "users": """
        SELECT user_id, first_name, last_name, gender, level FROM plays
        QUALIFY row_number() OVER (PARTITION BY user_id
            ORDER BY ts DESC, item_in_session DESC, session_id DESC) = 1""",
    "songs": "SELECT song_id, title, artist_id, duration, year FROM chosen_songs",
    "artists": "SELECT * FROM chosen_artists",
    "time": """
        SELECT DISTINCT start_time, hour(start_time)::INTEGER, day(start_time)::INTEGER,
               week(start_time)::INTEGER, month(start_time)::INTEGER, year(start_time)::INTEGER,
               isodow(start_time)::INTEGER FROM plays""",
}

# ---- The play key's hash ---------------------------------------------------------------------------------

MASK = (1 << 64) - 1
PRIME_1 = 0x9E3779B185EBCA87
PRIME_2 = 0xC2B2AE3D27D4EB4F
PRIME_3 = 0x165667B19E3779F9
PRIME_4 = 0x85EBCA77C2B2AE63
PRIME_5 = 0x27D4EB2F165667C5


def _rotate(x, bits):
    return ((x << bits) | (x >> (64 - bits))) & MASK


@lru_cache(maxsize=1 << 18)  # the plays of a session share the hash of user and session
def xxh64_long(value, seed):
    """XXH64 of the one 8-byte little-endian long `value`; unsigned in, unsigned out."""
    acc = (seed + PRIME_5 + 8) & MASK
    acc ^= _rotate((value & MASK) * PRIME_2 & MASK, 31) * PRIME_1 & MASK
    acc = (_rotate(acc, 27) * PRIME_1 + PRIME_4) & MASK
    acc = (acc ^ (acc >> 33)) * PRIME_2 & MASK
    acc = (acc ^ (acc >> 29)) * PRIME_3 & MASK
    return acc ^ (acc >> 32)


def xxhash64(*values):
    """Spark's xxhash64 of bigints, signed: each is hashed with the hash before it as the seed, from 42 on."""
    acc = 42
    for value in values:
        acc = xxh64_long(value, acc)
    return acc - (1 << 64) if acc >> 63 else acc


# ---- Reading ---------------------------------------------------------------------------------------------


def _visible_json(path):
    """Whether a relative path is a file to read, with no hidden part."""
    *folders, name = path.split("/")
    ends = (".json", ".jsonl", ".ndjson")
    is_read = bool(name) and ("." not in name or name.removesuffix(".gz").endswith(ends))
    return is_read and not any(part[:1] in ("_", ".") for part in (*folders, name))


def raw_files(input_folder, kind):
    """Yield (source, bytes) of each JSON file of 'songs' or 'logs': from the folder, else from the zip."""
    input_folder = Path(input_folder)
    stem = {"songs": "song", "logs": "log"}[kind]
    in_folder = False
    for here, folders, names in os.walk(input_folder):
        folders.sort()
        relative = Path(here).relative_to(input_folder)
        if any(part[:1] in ("_", ".") for part in relative.parts):
            continue
        # The first of the two names on the way decides, so song_data/ may itself lie below the input folder.
        kinds = [part.replace("-", "_") for part in relative.parts if part[-5:] in ("_data", "-data")]
        if kinds[:1] != [f"{stem}_data"]:
            continue
        in_folder = True
        for name in sorted(names):
            if _visible_json(name):
                yield (relative / name).as_posix(), _unpacked(name, (Path(here) / name).read_bytes())
    if in_folder:
        return
    for name in (f"{stem}-data.zip", f"{stem}_data.zip"):
        if (input_folder / name).is_file():
            with zipfile.ZipFile(input_folder / name) as archive:
                for member in sorted(archive.namelist()):
                    if _visible_json(member):
                        yield f"{name}/{member}", _unpacked(member, archive.read(member))
            return
    raise FileNotFoundError(f"no {stem}_data/ and no {stem}-data.zip in the input folder")


def _unpacked(name, content):
    return gzip.decompress(content) if name.endswith(".gz") else content


BLANK = re.compile(r"[ \t\r\n]*")
GAP = re.compile(r"[ \t\r]*")


def _object_at(text, at):
    """The end of the JSON object that begins at a place, or None."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return end if isinstance(value, dict) else None


def _elements(text):
    """The texts of the elements of an array that a text is, or none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found, at = [], text.find("[") + 1
    for _ in values if isinstance(values, list) else []:
        at = BLANK.match(text, at).end()
        end = json.JSONDecoder().raw_decode(text, at)[1]
        found.append(text[at:end])
        at = text.find(",", end) + 1
    return found


def _is_object(text):
    """Whether a text is one JSON object, but for blanks around it."""
    return _object_at(text, BLANK.match(text).end()) == len(text.rstrip(" \t\r\n"))


def _chain(text, at):
    """The objects one behind the other from a place in a line on: (their texts, where they end)."""
    found = []
    while (end := _object_at(text, start := GAP.match(text, at).end())) is not None:
        found.append(text[start:end])
        at = end
    return found, GAP.match(text, at).end()


def texts_in(kind, text):
    """The texts of a file, one a record; a song file without any object is one."""
    text = text.removeprefix("\ufeff")
    found = _elements(text.strip(" \t\r\n")) or _texts_by_line(text)
    return found if kind == "logs" or any(map(_is_object, found)) else [text]


def _texts_by_line(text):
    found, at = [], 0
    while at < len(text):
        line_end = text.find("\n", at) % (len(text) + 1)  # -1, where there is none, is the end
        start = at + text.startswith("\ufeff", at)
        objects, end = _chain(text, start)
        if objects and text[end : end + 1] in ("", "\n"):
            found += objects
            at = end + 1
            continue
        line = text[start:line_end].removesuffix("\r")
        if line.strip(" \t\r"):
            found.append(line)
        at = line_end + 1
    return found


def load(con, input_folder):
    """Fill the DuckDB tables files(kind, source) and records(kind, raw, is_object).

    Handed over as JSON arrays: 15,000 rows take 0.03 s, by executemany 4 to 9 s.
    """
    con.execute("CREATE TABLE files (kind VARCHAR, source VARCHAR)")
    con.execute("CREATE TABLE texts (kind VARCHAR, raw VARCHAR, is_object VARCHAR)")
    chunk, size, sources = [], 0, []

    def flush(table, rows):
        numbers = ", ".join(f"r[{n}]" for n in range(1, 1 + len(rows[0])))
        con.execute(
            f"""INSERT INTO {table}
                SELECT {numbers} FROM (SELECT unnest(from_json($1::VARCHAR, '[["VARCHAR"]]')) AS r)""",
            [json.dumps(rows)],
        )

    for kind in ("songs", "logs"):
        for source, content in raw_files(input_folder, kind):
            sources.append([kind, source])
            for text in texts_in(kind, content.decode("utf-8", errors="replace")):
                chunk.append([kind, text, str(_is_object(text))])
                size += len(text)
                if size >= CHUNK:
                    flush("texts", chunk)
                    chunk, size = [], 0
    for table, rows in (("texts", chunk), ("files", sources)):
        if rows:
            flush(table, rows)
    con.execute(
        "CREATE TABLE records AS SELECT kind, raw, is_object = 'True' AND json_valid(raw) AS is_object FROM texts"
    )


def _typed(table, kind, fields):
    """The statement that makes a table of a kind's objects: raw, then each field read by its macro."""
    paths = ", ".join(f"'$.{key}'" for key, _ in fields.values())
    columns = [f"{macro}(types[{i}], texts[{i}]) AS {c}" for i, (c, (_, macro)) in enumerate(fields.items(), 1)]
    # The objects get a table of their own: json_type of a line that isn't JSON is an error, and in one
    # statement the optimizer could move it before the filter.
    return f"""
        CREATE TABLE {table}_raw AS SELECT raw FROM records WHERE kind = '{kind}' AND is_object;
        CREATE TABLE {table} AS SELECT raw, {", ".join(columns)} FROM (
            SELECT raw, json_type(raw, [{paths}]) AS types, json_extract_string(raw, [{paths}]) AS texts
            FROM {table}_raw);
    """


# ---- The tables ------------------------------------------------------------------------------------------


def sort_rows(rows):
    """The rows as tuples in ascending order, null after every value."""
    return sorted(map(tuple, rows), key=lambda row: [(value is None, value) for value in row])


def five_tables(input_folder):
    """The five tables, the counts and the rejected records that the input must give.

    Returns a dict: each of the five names -> sorted list of row tuples, the columns in the order of the table
    with the partition columns at the end where they aren't columns already (songplays: year, month; songs:
    year; time: none to add); timestamps are naive UTC datetimes. "report" -> {"input", "tables": {name:
    {"rows"}}, "matched_plays"} as in etl.py's --report. "rejected" -> sorted list of ("songs" or "logs", raw
    text), where the text is without its byte order mark and a line without its last \\r.
    """
    with duckdb.connect() as con:
        load(con, input_folder)
        con.execute(MACROS)
        con.execute(_typed("song_objects", "songs", SONG_FIELDS))
        con.execute(_typed("event_objects", "logs", EVENT_FIELDS))
        con.execute(TABLES)
        result = {name: con.execute(sql).fetchall() for name, sql in SELECTS.items()}
        rejected = con.execute("SELECT kind, raw FROM rejected").fetchall()

        def count(sql):
            return con.execute(f"SELECT count(*) FROM {sql}").fetchone()[0]

        songs = {
            "files": count("files WHERE kind = 'songs'"),
            "records": count("records WHERE kind = 'songs'"),
            "duplicates": count("accepted_songs") - count("chosen_songs"),
            "rejected": count("rejected WHERE kind = 'songs'"),
        }
        logs = {
            "files": count("files WHERE kind = 'logs'"),
            "records": count("records WHERE kind = 'logs'"),
            "plays": count("plays"),
            "duplicates": count("event_kinds WHERE event_kind = 'play'") - count("plays"),
            "not_plays": count("event_kinds WHERE event_kind = 'not a play'"),
            "rejected": count("rejected WHERE kind = 'logs'"),
        }
        matched_plays = count("matched WHERE song_id IS NOT NULL")

    result["songplays"] = [(xxhash64(*row[:4]), *row[4:]) for row in result["songplays"]]
    result = {name: sort_rows(rows) for name, rows in result.items()}
    result["report"] = {
        "input": {"songs": songs, "logs": logs},
        "tables": {name: {"rows": len(result[name])} for name in SELECTS},
        "matched_plays": matched_plays,
    }
    result["rejected"] = sorted(rejected)
    return result
