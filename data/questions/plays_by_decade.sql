-- Are old songs played? Songs and plays of the catalogue by the decade of the song; a year of 0 is unknown.
SELECT
    CASE WHEN s.year > 0 THEN s.year - s.year % 10 END AS decade,
    count(DISTINCT s.song_id) AS songs,
    count(p.songplay_id) AS plays
FROM songs AS s
LEFT JOIN songplays AS p ON p.song_id = s.song_id
GROUP BY CASE WHEN s.year > 0 THEN s.year - s.year % 10 END
ORDER BY decade NULLS LAST
