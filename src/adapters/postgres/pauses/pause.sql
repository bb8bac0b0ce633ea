INSERT INTO stage_pauses (stage, revision, paused_since, reason) VALUES ($1, 1, $2, $3)
ON CONFLICT (stage) DO UPDATE SET
    revision = stage_pauses.revision + 1,
    paused_since = COALESCE(stage_pauses.paused_since, excluded.paused_since),
    reason = COALESCE(excluded.reason, CASE WHEN stage_pauses.paused_since IS NOT NULL THEN stage_pauses.reason END)
WHERE $4::bigint IS NULL OR stage_pauses.revision = $4
RETURNING stage, revision, paused_since, reason
