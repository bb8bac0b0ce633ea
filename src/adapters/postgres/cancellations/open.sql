SELECT id, passage, at, reason FROM cancellations WHERE id > $1 ORDER BY id LIMIT $2
