-- How much of the listening is free and how much is paid, day by day? A user who changes level on a day counts in both.
SELECT
    CAST(start_time AS DATE) AS day,
    count(CASE WHEN level = 'free' THEN 1 END) AS free_plays,
    count(CASE WHEN level = 'paid' THEN 1 END) AS paid_plays,
    count(DISTINCT CASE WHEN level = 'free' THEN user_id END) AS free_users,
    count(DISTINCT CASE WHEN level = 'paid' THEN user_id END) AS paid_users
FROM songplays
GROUP BY CAST(start_time AS DATE)
ORDER BY day
