-- The archive is asked row by row, on purpose. As a join Postgres may read the whole archive beside it.
SELECT id, passage, placed_at, total, steps::text, content::text
FROM journal
WHERE
    NOT to_publish
    AND id > $1
    AND coalesce((SELECT archive.passage FROM archive WHERE archive.id = journal.id), 0) < journal.passage
ORDER BY id
LIMIT $2
