-- Sorted by order and sequence by whoever calls: see archive.sql. An event does not overtake one of its order that waits to
-- be sent again, and is not looked at before that is.
INSERT INTO webhook_deliveries (webhook, order_id, sequence, kind, at, stage, attempt, reason, kept_at, due_at)
SELECT
    webhooks.id, e.order_id, e.sequence, e.kind, e.at, e.stage, e.attempt, e.reason, clock_timestamp(),
    coalesce(
        (
            SELECT max(before.due_at)
            FROM webhook_deliveries AS before
            WHERE before.webhook = webhooks.id AND before.order_id = e.order_id AND before.settled_at IS NULL
        ),
        clock_timestamp()
    )
FROM
    unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[], $7::text[])
        AS e (order_id, sequence, kind, at, stage, attempt, reason)
    JOIN webhooks ON e.kind = ANY (webhooks.events)
ORDER BY webhooks.id, e.order_id, e.sequence
ON CONFLICT (webhook, order_id, sequence) DO NOTHING
