-- A row that is there is updated even if nothing about it changes: the reply then waits until a synchronous standby has
-- what it says.
INSERT INTO cancellations (id, passage, at, reason)
VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET
    passage = greatest(cancellations.passage, excluded.passage),
    at = CASE WHEN cancellations.passage < excluded.passage THEN excluded.at ELSE cancellations.at END,
    reason = CASE WHEN cancellations.passage < excluded.passage THEN excluded.reason ELSE cancellations.reason END
RETURNING id, passage, at, reason
