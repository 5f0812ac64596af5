-- Do women and men pay alike, and listen alike? By the level at a user's last play.
SELECT
    coalesce(u.gender, '(unknown)') AS gender,
    coalesce(u.level, '(unknown)') AS level,
    count(DISTINCT u.user_id) AS users,
    count(*) AS plays,
    round(CAST(count(*) AS DOUBLE) / count(DISTINCT u.user_id), 1) AS plays_per_user
FROM users AS u
JOIN songplays AS p ON p.user_id = u.user_id
GROUP BY coalesce(u.gender, '(unknown)'), coalesce(u.level, '(unknown)')
ORDER BY gender, level
