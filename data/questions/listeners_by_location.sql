-- Where are the listeners? A user who listened in two places counts in both.
SELECT
    coalesce(location, '(unknown)') AS location,
    count(DISTINCT user_id) AS listeners,
    count(*) AS plays,
    count(DISTINCT CASE WHEN level = 'paid' THEN user_id END) AS paying_listeners
FROM songplays
GROUP BY coalesce(location, '(unknown)')
ORDER BY listeners DESC, plays DESC, location
