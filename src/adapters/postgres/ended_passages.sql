SELECT id, passage FROM archive WHERE id = ANY($1::uuid[])
