-- Who is going quiet? The twenty users whose plays in the data's last seven days fell most against the seven before.
WITH days AS (
    SELECT user_id, CAST(start_time AS DATE) AS day FROM songplays
),
last AS (
    SELECT max(day) AS last_day FROM days
),
counted AS (
    SELECT
        d.user_id,
        count(CASE WHEN d.day > l.last_day - INTERVAL '7' DAY THEN 1 END) AS last_seven,
        count(CASE WHEN d.day <= l.last_day - INTERVAL '7' DAY THEN 1 END) AS seven_before
    FROM days AS d
    CROSS JOIN last AS l
    WHERE d.day > l.last_day - INTERVAL '14' DAY
    GROUP BY d.user_id
)
SELECT c.user_id, u.first_name, u.last_name, u.level, c.seven_before, c.last_seven, c.last_seven - c.seven_before AS change
FROM counted AS c
JOIN users AS u ON u.user_id = c.user_id
ORDER BY change, c.user_id
LIMIT 20
