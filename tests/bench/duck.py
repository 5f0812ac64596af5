"""The same five tables by DuckDB, as fast as one script of SQL makes them: the mark to measure etl.py against.

    python duck.py INPUT OUTPUT [--memory 6GB]

INPUT holds song_data/ and log_data/ (no zips). OUTPUT must be empty. It follows the rules of the tables: a play once,
the nearest duration among songs of one name, a user as in the last play. It takes the input for clean: nothing is
rejected, staged or audited, a second JSON object on a line goes unnoticed, and the ids are DuckDB's own hash.
"""

import argparse
from pathlib import Path

import duckdb

SONG_COLUMNS = {
    **dict.fromkeys(("song_id", "title", "artist_id", "artist_name", "artist_location"), "VARCHAR"),
    **dict.fromkeys(("artist_latitude", "artist_longitude", "duration"), "DOUBLE"),
    "year": "INTEGER",
}
EVENT_COLUMNS = {
    **dict.fromkeys(("page", "userId", "level", "location", "userAgent", "song", "artist"), "VARCHAR"),
    **dict.fromkeys(("firstName", "lastName", "gender"), "VARCHAR"),
    **dict.fromkeys(("sessionId", "itemInSession", "ts"), "BIGINT"),
    "length": "DOUBLE",
}

SONGS = """
CREATE TEMP TABLE song_records AS
SELECT * REPLACE (nullif(artist_name, '') AS artist_name, nullif(artist_location, '') AS artist_location)
FROM read_json('{input}/song_data/**/*.json', format = 'unstructured', columns = {columns});

CREATE TEMP TABLE chosen_songs AS
SELECT * FROM song_records QUALIFY row_number() OVER (PARTITION BY song_id ORDER BY title, artist_id, year, duration,
    artist_name, artist_location, artist_latitude, artist_longitude) = 1;

COPY (SELECT song_id, title, artist_id, duration, year FROM chosen_songs ORDER BY artist_id)
TO '{output}/songs' (FORMAT parquet, PARTITION_BY year);

COPY (
    SELECT artist_id, artist_name AS name, artist_location AS location, artist_latitude AS latitude,
        artist_longitude AS longitude
    FROM song_records QUALIFY row_number() OVER (PARTITION BY artist_id ORDER BY artist_name, artist_location,
        artist_latitude, artist_longitude) = 1
) TO '{output}/artists/artists.parquet' (FORMAT parquet);
"""

# Copies of a play are few. Only keys that occur twice are ordered: a window over all plays takes half as long again.
PLAYS = """
CREATE TEMP TABLE play_records AS
SELECT userId::BIGINT AS user_id, sessionId AS session_id, itemInSession AS item_in_session, ts,
    nullif(level, '') AS level, nullif(location, '') AS location,
    nullif(CASE WHEN userAgent LIKE '"%"' THEN userAgent[2:-2] ELSE userAgent END, '') AS user_agent,
    nullif(song, '') AS song, nullif(artist, '') AS artist, length,
    nullif(firstName, '') AS first_name, nullif(lastName, '') AS last_name, nullif(gender, '') AS gender
FROM read_json('{input}/log_data/**/*.json', format = 'newline_delimited', columns = {columns})
WHERE page = 'NextSong';

CREATE TEMP TABLE copied AS
SELECT user_id, session_id, item_in_session, ts FROM play_records GROUP BY ALL HAVING count(*) > 1;

CREATE TEMP VIEW plays AS
SELECT * FROM play_records ANTI JOIN copied USING (user_id, session_id, item_in_session, ts)
UNION ALL
SELECT * FROM (
    SELECT * FROM play_records SEMI JOIN copied USING (user_id, session_id, item_in_session, ts)
    QUALIFY row_number() OVER (PARTITION BY user_id, session_id, item_in_session, ts ORDER BY level, location,
        user_agent, song, artist, length, first_name, last_name, gender) = 1
);
"""

TABLES = """
COPY (
    WITH names AS (
        SELECT title AS song, artist_name AS artist, list({{'id': song_id, 'by': artist_id, 's': duration}}) AS songs
        FROM chosen_songs GROUP BY ALL
    ), matched AS (
        SELECT plays.*, CASE WHEN len(songs) > 1 THEN list_min(list_transform(songs, lambda x:
            {{'gap': coalesce(abs(x.s - length), 'inf'::DOUBLE), 'id': x.id, 'by': x.by}}))
            ELSE {{'gap': 0.0::DOUBLE, 'id': songs[1].id, 'by': songs[1].by}} END AS nearest
        FROM plays LEFT JOIN names USING (song, artist)
    )
    SELECT (hash(user_id, session_id, item_in_session, ts)::HUGEINT - 9223372036854775808)::BIGINT AS songplay_id,
        epoch_ms(ts) AS start_time, user_id, level, nearest.id AS song_id, nearest.by AS artist_id, session_id,
        location, user_agent, year(epoch_ms(ts))::INTEGER AS year, month(epoch_ms(ts))::INTEGER AS month
    FROM matched
) TO '{output}/songplays' (FORMAT parquet, PARTITION_BY (year, month));

COPY (
    SELECT user_id, unnest(max_by({{'first_name': first_name, 'last_name': last_name, 'gender': gender,
        'level': level}}, (ts, item_in_session, session_id)))
    FROM plays GROUP BY user_id
) TO '{output}/users/users.parquet' (FORMAT parquet);

COPY (
    SELECT start_time, hour(start_time)::INTEGER AS hour, day(start_time)::INTEGER AS day,
        week(start_time)::INTEGER AS week, month(start_time)::INTEGER AS month, year(start_time)::INTEGER AS year,
        isodow(start_time)::INTEGER AS weekday
    FROM (SELECT DISTINCT epoch_ms(ts) AS start_time FROM play_records)
) TO '{output}/time' (FORMAT parquet, PARTITION_BY (year, month));
"""


def main():
    parser = argparse.ArgumentParser(description="The five tables by DuckDB.")
    parser.add_argument("input", metavar="INPUT")
    parser.add_argument("output", metavar="OUTPUT", type=Path)
    parser.add_argument("--memory", default="6GB", help="DuckDB's memory limit (6GB)")
    options = parser.parse_args()
    for name in ("artists", "users"):
        (options.output / name).mkdir(parents=True)
    with duckdb.connect(config={"memory_limit": options.memory, "preserve_insertion_order": False}) as con:
        for sql, columns in ((SONGS, SONG_COLUMNS), (PLAYS, EVENT_COLUMNS), (TABLES, None)):
            con.execute(sql.format(input=options.input, output=options.output, columns=columns))


if __name__ == "__main__":
    main()
