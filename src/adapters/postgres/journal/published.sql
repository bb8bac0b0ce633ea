-- Locked by id first, as everybody does it here.
UPDATE journal SET to_publish = false
WHERE id IN (SELECT id FROM journal WHERE id = ANY($1::uuid[]) AND to_publish ORDER BY id FOR UPDATE)
