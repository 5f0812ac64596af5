-- Which song of the catalogue is played most in each place? Of equals, the first by title.
WITH counted AS (
    SELECT p.location, s.song_id, s.title, count(*) AS plays
    FROM songplays AS p
    JOIN songs AS s ON s.song_id = p.song_id
    WHERE p.location IS NOT NULL
    GROUP BY p.location, s.song_id, s.title
),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY location ORDER BY plays DESC, title, song_id) AS place
    FROM counted
)
SELECT location, title, plays
FROM ranked
WHERE place = 1
ORDER BY location
