-- What share of the plays is of songs in the catalogue, week by week? Weeks are named by their Monday.
SELECT
    CAST(date_trunc('week', start_time) AS DATE) AS week,
    count(*) AS plays,
    count(song_id) AS matched_plays,
    round(CAST(100 * count(song_id) AS DOUBLE) / count(*), 1) AS matched_percent
FROM songplays
GROUP BY CAST(date_trunc('week', start_time) AS DATE)
ORDER BY week
