SELECT id, passage, placed_at, total, steps::text, content::text FROM archive WHERE id = $1
