-- What did users do in the seven days before they began to pay? One row for each play that is paid after a free one.
WITH steps AS (
    SELECT
        user_id, start_time, level,
        lag(level) OVER (PARTITION BY user_id ORDER BY start_time, songplay_id) AS level_before
    FROM songplays
),
upgrades AS (
    SELECT user_id, start_time AS upgraded
    FROM steps
    WHERE level = 'paid' AND level_before = 'free'
)
SELECT
    u.user_id,
    CAST(u.upgraded AS DATE) AS first_paid_day,
    count(p.songplay_id) AS plays_before,
    count(DISTINCT p.session_id) AS sessions_before,
    count(DISTINCT CAST(p.start_time AS DATE)) AS active_days_before,
    count(p.song_id) AS catalogue_plays_before
FROM upgrades AS u
LEFT JOIN songplays AS p
    ON p.user_id = u.user_id
    AND p.start_time < u.upgraded
    AND p.start_time >= u.upgraded - INTERVAL '7' DAY
GROUP BY u.user_id, u.upgraded
ORDER BY u.upgraded, u.user_id
