-- What do people listen on? A user with two devices counts in both.
WITH devices AS (
    SELECT
        user_id, level,
        CASE
            WHEN user_agent LIKE '%iPhone%' OR user_agent LIKE '%iPad%' THEN 'iOS'
            WHEN user_agent LIKE '%Android%' THEN 'Android'
            WHEN user_agent LIKE '%Macintosh%' THEN 'Mac'
            WHEN user_agent LIKE '%Windows%' THEN 'Windows'
            WHEN user_agent LIKE '%Linux%' THEN 'Linux'
            ELSE 'other'
        END AS device
    FROM songplays
)
SELECT device, count(DISTINCT user_id) AS listeners, count(*) AS plays,
    count(CASE WHEN level = 'paid' THEN 1 END) AS paid_plays
FROM devices
GROUP BY device
ORDER BY plays DESC, device
