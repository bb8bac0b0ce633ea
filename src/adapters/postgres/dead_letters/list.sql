-- Those before ($1, $2); all of them if these are NULL.
SELECT id, source, reason, at, bytes
FROM dead_letters
WHERE (at, id) < (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
ORDER BY at DESC, id DESC
LIMIT $3
