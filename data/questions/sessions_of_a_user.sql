-- What did user 88 do, session by session? The minutes are from the first play's start to the last one's.
SELECT
    session_id,
    min(start_time) AS started,
    count(*) AS plays,
    CAST(
        extract(DAY FROM max(start_time) - min(start_time)) * 1440
        + extract(HOUR FROM max(start_time) - min(start_time)) * 60
        + extract(MINUTE FROM max(start_time) - min(start_time))
    AS INT) AS minutes,
    count(CASE WHEN level = 'paid' THEN 1 END) AS paid_plays
FROM songplays
WHERE user_id = 88
GROUP BY session_id
ORDER BY started, session_id
