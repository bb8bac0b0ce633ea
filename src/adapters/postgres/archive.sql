-- Keeps ended orders, sorted by id by whoever calls: two statements that lock rows in the same order cannot wait for
-- each other in a circle. Returns those it keeps now; the others were there before.
INSERT INTO archive (
    id, placed_at, finished_at, passage, status, customer_id, reference, currency, total, failure_stage,
    failure_reason, steps, content
)
SELECT
    id, placed_at, finished_at, passage, status, customer_id, reference, currency, total, failure_stage,
    failure_reason, steps::json, content::json
FROM unnest(
    $1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[]
) AS ended (
    id, placed_at, finished_at, passage, status, customer_id, reference, currency, total, failure_stage,
    failure_reason, steps, content
)
ON CONFLICT (id) DO UPDATE SET
    placed_at = excluded.placed_at,
    finished_at = excluded.finished_at,
    passage = excluded.passage,
    status = excluded.status,
    customer_id = excluded.customer_id,
    reference = excluded.reference,
    currency = excluded.currency,
    total = excluded.total,
    failure_stage = excluded.failure_stage,
    failure_reason = excluded.failure_reason,
    steps = excluded.steps,
    content = excluded.content
WHERE archive.passage < excluded.passage
RETURNING id
