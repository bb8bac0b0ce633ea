-- Failed orders after $1, those that answer the filters that are not NULL.
SELECT id, passage, placed_at, total, steps::text, content::text
FROM archive
WHERE
    status = 'failed'
    AND id > $1
    AND ($2::text IS NULL OR failure_stage = $2)
    AND ($3::text IS NULL OR strpos(failure_reason, $3) > 0)
    AND ($4::text IS NULL OR customer_id = $4)
    AND ($5::timestamptz IS NULL OR finished_at >= $5)
    AND ($6::timestamptz IS NULL OR finished_at < $6)
ORDER BY id
LIMIT $7
