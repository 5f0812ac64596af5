-- Of the users first heard in a week, how many listen again in the weeks after? Weeks begin on Monday.
WITH active AS (
    SELECT DISTINCT user_id, CAST(date_trunc('week', start_time) AS DATE) AS week
    FROM songplays
),
cohorts AS (
    SELECT user_id, week, min(week) OVER (PARTITION BY user_id) AS cohort
    FROM active
),
sizes AS (
    SELECT cohort, count(DISTINCT user_id) AS users
    FROM cohorts
    GROUP BY cohort
)
SELECT
    c.cohort,
    c.week,
    s.users AS cohort_users,
    count(*) AS active_users,
    round(CAST(100 * count(*) AS DOUBLE) / s.users, 1) AS active_percent
FROM cohorts AS c
JOIN sizes AS s ON s.cohort = c.cohort
GROUP BY c.cohort, c.week, s.users
ORDER BY c.cohort, c.week
