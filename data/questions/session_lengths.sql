-- How long are sessions, in plays, for free and for paying listeners? The level is that of the session's first play.
WITH ordered AS (
    SELECT
        user_id, session_id, level,
        row_number() OVER (PARTITION BY user_id, session_id ORDER BY start_time, songplay_id) AS place,
        count(*) OVER (PARTITION BY user_id, session_id) AS plays
    FROM songplays
),
sessions AS (
    SELECT
        level, plays,
        CASE
            WHEN plays = 1 THEN '1'
            WHEN plays <= 5 THEN '2 to 5'
            WHEN plays <= 10 THEN '6 to 10'
            WHEN plays <= 20 THEN '11 to 20'
            WHEN plays <= 50 THEN '21 to 50'
            ELSE 'over 50'
        END AS plays_in_session
    FROM ordered
    WHERE place = 1
)
SELECT
    plays_in_session,
    count(CASE WHEN level = 'free' THEN 1 END) AS free_sessions,
    count(CASE WHEN level = 'paid' THEN 1 END) AS paid_sessions
FROM sessions
GROUP BY plays_in_session
ORDER BY min(plays)
