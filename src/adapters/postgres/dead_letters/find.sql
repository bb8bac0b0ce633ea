SELECT id, source, reason, at, bytes FROM dead_letters WHERE id = $1
