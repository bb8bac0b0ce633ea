-- Orders whose time has come, then those that wait for nothing but a queue, in the order in which they came.
(
    SELECT id, passage, placed_at, total, steps::text, content::text
    FROM journal
    WHERE to_publish AND publish_at IS NOT NULL AND publish_at <= clock_timestamp()
    ORDER BY publish_at
    LIMIT $1
)
UNION ALL
(
    SELECT id, passage, placed_at, total, steps::text, content::text
    FROM journal
    WHERE to_publish AND publish_at IS NULL
    ORDER BY seq
    LIMIT $1
)
LIMIT $1
