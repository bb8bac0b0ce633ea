DELETE FROM cancellations
USING unnest($1::uuid[], $2::integer[]) AS ended (id, passage)
WHERE cancellations.id = ended.id AND cancellations.passage <= ended.passage
