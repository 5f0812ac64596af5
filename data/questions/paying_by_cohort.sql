-- Of the users first heard in a week, how many have ever paid, and how many were paying at their last play?
WITH firsts AS (
    SELECT
        user_id,
        CAST(date_trunc('week', min(start_time)) AS DATE) AS cohort,
        max(CASE WHEN level = 'paid' THEN 1 ELSE 0 END) AS ever_paid
    FROM songplays
    GROUP BY user_id
)
SELECT
    f.cohort,
    count(*) AS users,
    sum(f.ever_paid) AS ever_paid,
    count(CASE WHEN u.level = 'paid' THEN 1 END) AS paying_at_last,
    round(CAST(100 * sum(f.ever_paid) AS DOUBLE) / count(*), 1) AS ever_paid_percent
FROM firsts AS f
JOIN users AS u ON u.user_id = f.user_id
GROUP BY f.cohort
ORDER BY f.cohort
