CREATE TABLE archive (
    id uuid PRIMARY KEY,
    placed_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    passage integer NOT NULL,
    status text NOT NULL,
    customer_id text NOT NULL,
    reference text,
    currency text NOT NULL,
    total text NOT NULL,
    failure_stage text,
    failure_reason text,
    steps json NOT NULL,
    content json NOT NULL
);

COMMENT ON TABLE archive IS 'Orders that have ended, one row each; the first end of a passage stays.';
COMMENT ON COLUMN archive.passage IS '1, and one more each time a failed order was tried again.';
COMMENT ON COLUMN archive.total IS 'The exact sum as a decimal: total::numeric to count with.';
COMMENT ON COLUMN archive.failure_reason IS 'As in steps, but with U+FFFD where a text in Postgres cannot hold U+0000.';
-- jsonb would order keys anew, write numbers its own way and refuse \u0000: an order comes back to the letter.
COMMENT ON COLUMN archive.content IS 'What the customer placed, to the letter.';

-- lz4 costs a fraction of pglz's time for about the same size. Servers before 14, or built without it, do without.
DO $$
BEGIN
    EXECUTE 'ALTER TABLE archive ALTER COLUMN content SET COMPRESSION lz4, ALTER COLUMN steps SET COMPRESSION lz4';
EXCEPTION
    WHEN syntax_error OR feature_not_supported OR invalid_parameter_value THEN
        RAISE NOTICE 'archive: no lz4 compression on this server';
END
$$;
