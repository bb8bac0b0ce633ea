SELECT id, passage, placed_at, total, steps::text, content::text FROM journal WHERE to_publish ORDER BY seq LIMIT $1
