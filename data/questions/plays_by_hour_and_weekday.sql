-- When do people listen? Plays in each hour (UTC) of each day of the week, 1 being Monday.
SELECT t.weekday, t.hour, count(*) AS plays
FROM songplays AS p
JOIN time AS t ON t.start_time = p.start_time
GROUP BY t.weekday, t.hour
ORDER BY t.weekday, t.hour
