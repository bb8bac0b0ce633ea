SELECT id FROM archive WHERE id = ANY($1::uuid[])
