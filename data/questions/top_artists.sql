-- Which ten artists are played most, and by how many people? Only plays that match the catalogue have an artist.
SELECT a.name AS artist, count(*) AS plays, count(DISTINCT p.user_id) AS listeners
FROM songplays AS p
JOIN artists AS a ON a.artist_id = p.artist_id
GROUP BY a.artist_id, a.name
ORDER BY plays DESC, a.name, a.artist_id
LIMIT 10
