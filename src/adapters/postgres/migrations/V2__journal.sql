-- Not an identity column: the statement that puts a batch in sorts it by id, and numbers it in the order in which it came.
CREATE SEQUENCE journal_seq;

CREATE TABLE journal (
    id uuid PRIMARY KEY,
    seq bigint NOT NULL DEFAULT nextval('journal_seq'),
    passage integer NOT NULL,
    placed_at timestamptz NOT NULL,
    customer_id text NOT NULL,
    reference text,
    currency text NOT NULL,
    total text NOT NULL,
    steps json,
    content json NOT NULL,
    to_publish boolean NOT NULL
) WITH (
    -- Rows come and go all the time: by the defaults (a fifth of the table is dead) it would grow with the archive's rate,
    -- and the index of what waits to be published would be read through the dead.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_analyze_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.5
);

ALTER SEQUENCE journal_seq OWNED BY journal.seq;

CREATE INDEX journal_to_publish ON journal (seq) WHERE to_publish;

COMMENT ON TABLE journal IS 'Accepted orders that the queues or the in-flight store could not take, until they have ended.';
COMMENT ON COLUMN journal.seq IS 'The order in which they were accepted.';
COMMENT ON COLUMN journal.steps IS 'NULL: none, as of every order that was just accepted.';
COMMENT ON COLUMN journal.content IS 'What the customer placed, to the letter.';
COMMENT ON COLUMN journal.to_publish IS 'No queue holds it, as far as is known.';

DO $$
BEGIN
    EXECUTE 'ALTER TABLE journal ALTER COLUMN content SET COMPRESSION lz4, ALTER COLUMN steps SET COMPRESSION lz4';
EXCEPTION
    WHEN syntax_error OR feature_not_supported OR invalid_parameter_value THEN
        RAISE NOTICE 'journal: no lz4 compression on this server';
END
$$;
