-- How many people listen on a day, and how many did in the seven days that end with it?
WITH days AS (
    SELECT DISTINCT CAST(start_time AS DATE) AS day, user_id FROM songplays
),
dates AS (
    SELECT day, count(*) AS users FROM days GROUP BY day
)
SELECT d.day, d.users, count(DISTINCT w.user_id) AS users_in_seven_days
FROM dates AS d
JOIN days AS w ON w.day > d.day - INTERVAL '7' DAY AND w.day <= d.day
GROUP BY d.day, d.users
ORDER BY d.day
