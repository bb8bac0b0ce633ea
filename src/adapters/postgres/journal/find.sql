SELECT id, passage, placed_at, total, steps::text, content::text FROM journal WHERE id = ANY($1::uuid[])
