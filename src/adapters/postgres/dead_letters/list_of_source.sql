-- As list.sql, of the queue $4. (One statement for both could not use an index for either.)
SELECT id, source, reason, at, bytes
FROM dead_letters
WHERE
    source = $4
    AND (at, id) < (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
ORDER BY at DESC, id DESC
LIMIT $3
