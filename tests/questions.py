"""The answers to data/questions/*.sql computed a second time, by other SQL over the JSON in the zips.

    python tests/questions.py       writes them beside the questions, as `etl.py --query … --csv` prints them

Nothing here reads the five tables or a question's SQL. Days, weeks and hours come from the milliseconds of an event by
division, where the questions use the SQL functions of timestamps.
"""

import csv
import io
from pathlib import Path

import duckdb
import oracle

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ROOT / "data/questions"

# day counts from 1970-01-01, a Thursday; week from Monday 1970-01-05.
PLAYS = r"""
CREATE TABLE lines AS SELECT raw AS line FROM records WHERE kind = 'logs';

CREATE TABLE events AS
SELECT line->>'page' AS page, (line->>'userId') AS user_text, (line->>'sessionId')::BIGINT AS session_id,
    (line->>'itemInSession')::BIGINT AS item, (line->>'ts')::BIGINT AS ts, line->>'level' AS level,
    nullif(line->>'location', '') AS location, line->>'userAgent' AS user_agent, line->>'song' AS song,
    line->>'artist' AS artist, (line->>'length')::DOUBLE AS length, line->>'firstName' AS first_name,
    line->>'lastName' AS last_name, line->>'gender' AS gender
FROM lines WHERE trim(line) <> '';

CREATE TABLE catalogue AS
SELECT raw->>'song_id' AS song_id, raw->>'title' AS title, raw->>'artist_id' AS artist_id,
    raw->>'artist_name' AS artist_name, (raw->>'duration')::DOUBLE AS duration, (raw->>'year')::INT AS year
FROM records WHERE kind = 'songs';

CREATE TABLE artist_names AS SELECT artist_id, min(artist_name) AS name FROM catalogue GROUP BY artist_id;

CREATE TABLE plays AS
SELECT DISTINCT ON (user_text, session_id, item, ts) * EXCLUDE (page, user_text), user_text::BIGINT AS user_id,
    ts // 86400000 AS day, (ts // 86400000 - 4) // 7 AS week,
    (SELECT arg_min(c.song_id, (abs(c.duration - e.length), c.song_id)) FROM catalogue AS c
     WHERE c.title = e.song AND c.artist_name = e.artist) AS song_id
FROM events AS e WHERE page = 'NextSong';

CREATE MACRO date_of(day) AS DATE '1970-01-01' + day::INT;
CREATE MACRO monday_of(week) AS DATE '1970-01-05' + (7 * week)::INT;
CREATE MACRO percent(part, whole) AS round(100.0::DOUBLE * part / whole, 1);
"""

ANSWERS = {
    "active_users": """
        SELECT date_of(day) AS day, len(today) AS users, len(list_distinct(flatten(list(today) OVER (
            ORDER BY day RANGE BETWEEN 6 PRECEDING AND CURRENT ROW)))) AS users_in_seven_days
        FROM (SELECT day, list(DISTINCT user_id) AS today FROM plays GROUP BY day) ORDER BY day""",
    "before_upgrade": """
        WITH changes AS (
            SELECT user_id, ts AS paid_ts FROM plays
            QUALIFY level = 'paid' AND lag(level) OVER (PARTITION BY user_id ORDER BY ts) = 'free')
        SELECT user_id, date_of(paid_ts // 86400000) AS first_paid_day, count(ts) AS plays_before,
            count(DISTINCT session_id) AS sessions_before, count(DISTINCT day) AS active_days_before,
            count(song_id) AS catalogue_plays_before
        FROM changes LEFT JOIN plays USING (user_id) WHERE paid_ts - ts BETWEEN 1 AND 7 * 86400000
        GROUP BY user_id, paid_ts ORDER BY paid_ts, user_id""",
    "devices": r"""
        SELECT CASE regexp_extract(user_agent, 'iPhone|iPad|Android|Macintosh|Windows|Linux')
                WHEN 'iPhone' THEN 'iOS' WHEN 'iPad' THEN 'iOS' WHEN 'Macintosh' THEN 'Mac' WHEN '' THEN 'other'
                ELSE regexp_extract(user_agent, 'Android|Windows|Linux') END AS device,
            count(DISTINCT user_id) AS listeners, count(*) AS plays, count(*) FILTER (level = 'paid') AS paid_plays
        FROM plays GROUP BY device ORDER BY plays DESC, device""",
    "free_and_paid_by_day": """
        SELECT date_of(day) AS day, sum((level = 'free')::INT) AS free_plays, sum((level = 'paid')::INT) AS paid_plays,
            len(list(DISTINCT user_id) FILTER (level = 'free')) AS free_users,
            len(list(DISTINCT user_id) FILTER (level = 'paid')) AS paid_users
        FROM plays GROUP BY plays.day ORDER BY plays.day""",
    "gender_and_level": """
        SELECT gender, level, count(*) AS users, sum(plays) AS plays, round(sum(plays) / count(*), 1) AS plays_per_user
        FROM (SELECT user_id, arg_max(gender, ts) AS gender, arg_max(level, ts) AS level, count(*) AS plays
              FROM plays GROUP BY user_id)
        GROUP BY gender, level ORDER BY gender, level""",
    "going_quiet": """
        WITH ages AS (SELECT *, (max(day) OVER () - day) // 7 AS weeks_ago FROM plays)
        SELECT user_id, arg_max(first_name, ts) AS first_name, arg_max(last_name, ts) AS last_name,
            arg_max(level, ts) AS level, count(*) FILTER (weeks_ago = 1) AS seven_before,
            count(*) FILTER (weeks_ago = 0) AS last_seven, last_seven - seven_before AS change
        FROM ages GROUP BY user_id HAVING seven_before + last_seven > 0 ORDER BY change, user_id LIMIT 20""",
    "listeners_by_location": """
        SELECT ifnull(location, '(unknown)') AS location, len(list(DISTINCT user_id)) AS listeners,
            count(*) AS plays, count(DISTINCT user_id) FILTER (level = 'paid') AS paying_listeners
        FROM plays GROUP BY 1 ORDER BY 2 DESC, 3 DESC, 1""",
    "matched_by_week": """
        SELECT monday_of(week) AS week, count(*) AS plays,
            count(*) FILTER ((song, artist) IN (SELECT (title, artist_name) FROM catalogue)) AS matched_plays,
            percent(matched_plays, count(*)) AS matched_percent
        FROM plays GROUP BY plays.week ORDER BY plays.week""",
    "paying_by_cohort": """
        SELECT monday_of(first_week) AS cohort, count(*) AS users, sum(paid::INT) AS ever_paid,
            sum((last = 'paid')::INT) AS paying_at_last, percent(sum(paid::INT), count(*)) AS ever_paid_percent
        FROM (SELECT min(week) AS first_week, bool_or(level = 'paid') AS paid, arg_max(level, ts) AS last
              FROM plays GROUP BY user_id)
        GROUP BY first_week ORDER BY first_week""",
    "plays_by_decade": """
        SELECT nullif(year // 10 * 10, 0) AS decade, count(*) AS songs, sum(plays)::BIGINT AS plays
        FROM (SELECT year, (SELECT count(*) FROM plays AS p WHERE p.song_id = c.song_id) AS plays FROM catalogue AS c)
        GROUP BY decade ORDER BY decade NULLS LAST""",
    "plays_by_hour_and_weekday": """
        WITH hours AS (SELECT day, ts // 3600000 % 24 AS hour, count(*) AS plays FROM plays GROUP BY ALL)
        SELECT (day + 3) % 7 + 1 AS weekday, hour, sum(plays)::BIGINT AS plays,
            round(sum(plays) / (SELECT count(*) FROM (SELECT DISTINCT day FROM plays) AS d
                                WHERE d.day % 7 = any_value(h.day) % 7), 1) AS plays_a_day
        FROM hours AS h GROUP BY weekday, hour ORDER BY weekday, hour""",
    "retention_by_week": """
        WITH firsts AS (SELECT user_id, min(week) AS first FROM plays GROUP BY user_id),
        sizes AS (SELECT first, count(*) AS cohort_users FROM firsts GROUP BY first)
        SELECT monday_of(first) AS cohort, monday_of(week) AS week, cohort_users,
            count(DISTINCT user_id) AS active_users,
            percent(count(DISTINCT user_id), cohort_users) AS active_percent
        FROM firsts JOIN sizes USING (first) JOIN plays USING (user_id)
        GROUP BY first, cohort_users, plays.week ORDER BY first, plays.week""",
    "session_lengths": """
        WITH sessions AS (
            SELECT count(*) AS plays, arg_min(level, ts) AS level FROM plays GROUP BY user_id, session_id),
        ranges AS (
            SELECT unnest([1, 2, 6, 11, 21, 51]) AS low, unnest([1, 5, 10, 20, 50, 1000000]) AS high,
                unnest(['1', '2 to 5', '6 to 10', '11 to 20', '21 to 50', 'over 50']) AS plays_in_session)
        SELECT plays_in_session, count(*) FILTER (level = 'free') AS free_sessions,
            count(*) FILTER (level = 'paid') AS paid_sessions
        FROM ranges JOIN sessions ON plays BETWEEN low AND high GROUP BY low, plays_in_session ORDER BY low""",
    "sessions_of_a_user": """
        SELECT session_id, make_timestamp(min(ts) * 1000) AS started, count(*) AS plays,
            (max(ts) - min(ts)) // 60000 AS minutes, count(*) FILTER (level = 'paid') AS paid_plays
        FROM plays WHERE user_id = 88 GROUP BY session_id ORDER BY started""",
    "top_artists": """
        SELECT name AS artist, count(*) AS plays, count(DISTINCT user_id) AS listeners
        FROM plays JOIN catalogue USING (song_id) JOIN artist_names USING (artist_id)
        GROUP BY artist_id, name ORDER BY plays DESC, artist, artist_id LIMIT 10""",
    "top_song_by_location": """
        SELECT location, best.title AS title, plays FROM (
            SELECT location, arg_min({'title': title, 'song_id': song_id}, (-plays, title, song_id)) AS best,
                max(plays) AS plays
            FROM (SELECT location, title, song_id, count(*) AS plays FROM plays JOIN catalogue USING (song_id)
                  WHERE location IS NOT NULL GROUP BY ALL)
            GROUP BY location) ORDER BY location""",
    "top_songs": """
        SELECT title, name AS artist, count(*) AS plays, count(DISTINCT user_id) AS listeners
        FROM plays JOIN catalogue USING (song_id) JOIN artist_names USING (artist_id)
        GROUP BY song_id, title, name ORDER BY plays DESC, title, song_id LIMIT 10""",
}


def answers(input_folder):
    """{question: its answer as CSV}, computed from the JSON in a folder."""
    with duckdb.connect() as con:
        oracle.load(con, input_folder)
        con.execute(PLAYS)
        return {name: as_csv(con.sql(sql)) for name, sql in ANSWERS.items()}


def as_csv(relation):
    """A DuckDB relation as CSV: floats as Python writes them, everything else as DuckDB does."""
    columns = [f'"{c}"' if kind == "DOUBLE" else f'"{c}"::VARCHAR' for c, kind in zip(relation.columns, relation.types)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(relation.columns)
    writer.writerows(relation.project(", ".join(columns)).fetchall())
    return text.getvalue()


if __name__ == "__main__":
    for name, answer in answers(ROOT / "data").items():
        (QUESTIONS / f"{name}.csv").write_text(answer, encoding="utf-8")
