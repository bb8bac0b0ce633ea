SELECT id, passage, at, reason FROM cancellations WHERE id = ANY($1::uuid[])
