SELECT id, url, events, description, secret, created_at FROM webhooks ORDER BY created_at, id
