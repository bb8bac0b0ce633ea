CREATE TABLE dead_letters (
    id uuid PRIMARY KEY,
    source text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL,
    bytes bytea NOT NULL
);

-- Read backwards: newest first.
CREATE INDEX dead_letters_by_age ON dead_letters (at, id);
CREATE INDEX dead_letters_by_source ON dead_letters (source, at, id);

COMMENT ON TABLE dead_letters IS 'Messages that nobody can read, until a person has decided what becomes of them.';
COMMENT ON COLUMN dead_letters.source IS 'The queue it was taken from: the name of a stage, or ending.';
COMMENT ON COLUMN dead_letters.reason IS 'U+FFFD stands where a text in Postgres cannot hold U+0000.';

DO $$
BEGIN
    EXECUTE 'ALTER TABLE dead_letters ALTER COLUMN bytes SET COMPRESSION lz4';
EXCEPTION
    WHEN syntax_error OR feature_not_supported OR invalid_parameter_value THEN
        RAISE NOTICE 'dead_letters: no lz4 compression on this server';
END
$$;
