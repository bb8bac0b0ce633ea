-- Puts a batch in and says of each of its orders, in their order, whether it is new, and whether the content that is kept
-- is its own. $1: whether they are to be published.
--
-- A row that is there is updated even if nothing about it changes. Only so the statement sees a row that another one
-- put in while it ran, and only so the reply waits until a synchronous standby has what it says.
WITH given AS MATERIALIZED (
    SELECT nextval('journal_seq') AS seq, given.*
    FROM unnest(
        $2::uuid[], $3::integer[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::timestamptz[]
    ) WITH ORDINALITY AS given (
        id, passage, placed_at, customer_id, reference, currency, total, steps, content, publish_at, n
    )
),
kept AS (
    INSERT INTO journal (
        id, seq, passage, placed_at, customer_id, reference, currency, total, steps, content, to_publish, publish_at
    )
    -- By id: two statements that lock rows in the same order cannot wait for each other in a circle. Of several orders
    -- of one id the first: a statement cannot update a row twice.
    SELECT DISTINCT ON (id)
        id, seq, passage, placed_at, customer_id, reference, currency, total, steps::json, content::json, $1::boolean,
        publish_at
    FROM given
    ORDER BY id, n
    ON CONFLICT (id) DO UPDATE SET
        to_publish = journal.to_publish OR (
            excluded.to_publish AND EXISTS (
                SELECT FROM given
                WHERE given.id = journal.id AND given.content COLLATE "C" = journal.content::text
            )
        ),
        -- A later passage of it, which was tried again, takes its place.
        (passage, placed_at, steps) = (
            SELECT
                CASE WHEN is_later THEN excluded.passage ELSE journal.passage END,
                CASE WHEN is_later THEN excluded.placed_at ELSE journal.placed_at END,
                CASE WHEN is_later THEN excluded.steps ELSE journal.steps END
            FROM (
                SELECT
                    excluded.passage > journal.passage
                    AND excluded.content::text COLLATE "C" = journal.content::text AS is_later
            ) AS compared
        )
    RETURNING id, seq, content::text AS content
)
SELECT kept.seq = given.seq AS is_new, kept.content COLLATE "C" = given.content AS is_same
FROM given
JOIN kept USING (id)
ORDER BY given.n
