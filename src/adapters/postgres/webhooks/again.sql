-- Those of the same order that wait behind it wait as long, so that nobody looks at them in vain.
UPDATE webhook_deliveries AS d
SET
    sent = d.sent + CASE WHEN d.sequence = s.sequence THEN 1 ELSE 0 END,
    due_at = clock_timestamp() + make_interval(secs => s.wait_secs)
FROM unnest($2::uuid[], $3::bigint[], $4::double precision[]) AS s (order_id, sequence, wait_secs)
WHERE d.webhook = $1 AND d.order_id = s.order_id AND d.sequence >= s.sequence AND d.settled_at IS NULL
