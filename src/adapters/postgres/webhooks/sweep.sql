WITH
    old AS (
        SELECT webhook, order_id, sequence
        FROM webhook_deliveries
        WHERE
            settled_at < clock_timestamp() - make_interval(secs => $1)
            AND (NOT given_up OR settled_at < clock_timestamp() - make_interval(secs => $2))
        LIMIT 2000
    ),
    gone AS (
        SELECT webhook, order_id, sequence
        FROM webhook_deliveries AS d
        WHERE d.settled_at IS NULL AND NOT EXISTS (SELECT FROM webhooks WHERE webhooks.id = d.webhook)
        LIMIT 2000
    ),
    swept AS (
        DELETE FROM webhook_deliveries AS d
        USING (SELECT * FROM old UNION SELECT * FROM gone) AS s
        WHERE d.webhook = s.webhook AND d.order_id = s.order_id AND d.sequence = s.sequence
        RETURNING 1
    )
SELECT count(*) FROM swept
