UPDATE webhook_deliveries AS d
SET settled_at = clock_timestamp(), given_up = s.given_up
FROM unnest($2::uuid[], $3::bigint[], $4::boolean[]) AS s (order_id, sequence, given_up)
WHERE d.webhook = $1 AND d.order_id = s.order_id AND d.sequence = s.sequence AND d.settled_at IS NULL
