SELECT webhooks.id, count(*) FILTER (WHERE d.settled_at IS NULL), count(*) FILTER (WHERE d.given_up)
FROM
    webhooks
    JOIN webhook_deliveries AS d ON d.webhook = webhooks.id AND (d.settled_at IS NULL OR d.given_up)
GROUP BY webhooks.id
