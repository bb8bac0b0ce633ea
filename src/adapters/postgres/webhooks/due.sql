SELECT
    d.order_id, d.sequence, d.kind, d.at, d.stage, d.attempt, d.reason, d.sent,
    extract(epoch FROM clock_timestamp() - d.kept_at)::double precision
FROM webhook_deliveries AS d
WHERE
    d.webhook = $1
    AND d.settled_at IS NULL
    AND d.due_at <= clock_timestamp()
    AND NOT EXISTS (
        SELECT FROM webhook_deliveries AS before
        WHERE
            before.webhook = d.webhook
            AND before.order_id = d.order_id
            AND before.sequence < d.sequence
            AND before.settled_at IS NULL
    )
ORDER BY d.due_at
LIMIT $2
