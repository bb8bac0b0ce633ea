INSERT INTO stage_pauses (stage, revision, paused_since, reason) VALUES ($1, 1, NULL, NULL)
ON CONFLICT (stage) DO UPDATE SET revision = stage_pauses.revision + 1, paused_since = NULL, reason = NULL
RETURNING stage, revision, paused_since, reason
