SELECT count(*) FROM journal WHERE to_publish AND (publish_at IS NULL OR publish_at <= now())
