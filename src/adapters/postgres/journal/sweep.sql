-- Looks at the next $2 rows after $1, removes those that have ended, and says how many and where it came to (NULL: there
-- were no rows). A row that was changed meanwhile stays for the next time, one that is locked too.
WITH looked_at AS MATERIALIZED (
    SELECT id, passage, to_publish FROM journal WHERE id > $1 ORDER BY id LIMIT $2
),
ended AS MATERIALIZED (
    SELECT journal.id, journal.passage
    FROM looked_at
    JOIN journal USING (id)
    WHERE
        NOT looked_at.to_publish
        AND NOT journal.to_publish
        AND journal.passage = looked_at.passage
        AND (SELECT archive.passage FROM archive WHERE archive.id = looked_at.id) >= looked_at.passage
    ORDER BY journal.id
    FOR UPDATE OF journal SKIP LOCKED
),
removed AS (
    DELETE FROM journal USING ended WHERE journal.id = ended.id RETURNING journal.id
)
SELECT (SELECT count(*) FROM removed), (SELECT id FROM looked_at ORDER BY id DESC LIMIT 1)
