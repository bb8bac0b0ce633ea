SELECT stage, revision, paused_since, reason FROM stage_pauses
