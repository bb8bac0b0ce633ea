-- Sorted by id by whoever calls: see archive.sql.
INSERT INTO dead_letters (id, source, reason, at, bytes)
SELECT id, source, reason, at, bytes
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::bytea[]) AS letters (id, source, reason, at, bytes)
ON CONFLICT (id) DO NOTHING
