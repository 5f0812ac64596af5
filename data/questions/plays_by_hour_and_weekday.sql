-- When do people listen? Plays in each hour (UTC) of each weekday, 1 being Monday, and their number on an average one.
-- A month may have five Fridays and four Mondays: only the average can be compared.
WITH weekdays AS (
    SELECT weekday, count(DISTINCT CAST(start_time AS DATE)) AS days
    FROM time
    GROUP BY weekday
)
SELECT t.weekday, t.hour, count(*) AS plays, round(CAST(count(*) AS DOUBLE) / w.days, 1) AS plays_a_day
FROM songplays AS p
JOIN time AS t ON t.start_time = p.start_time
JOIN weekdays AS w ON w.weekday = t.weekday
GROUP BY t.weekday, t.hour, w.days
ORDER BY t.weekday, t.hour
