-- What an order's life has beside its way: it is cancelled, waits for its time, is tried again.

CREATE TABLE cancellations (
    id uuid PRIMARY KEY,
    passage integer NOT NULL,
    at timestamptz NOT NULL,
    reason text
);

COMMENT ON TABLE cancellations IS 'Orders that are to go no further, until they have ended.';
COMMENT ON COLUMN cancellations.passage IS 'The one that is to end.';
COMMENT ON COLUMN cancellations.at IS 'When it was asked for.';

ALTER TABLE journal ADD COLUMN publish_at timestamptz;

COMMENT ON COLUMN journal.publish_at IS 'Not before this moment; NULL: as soon as a queue takes it.';

DROP INDEX journal_to_publish;
CREATE INDEX journal_to_publish ON journal (seq) WHERE to_publish AND publish_at IS NULL;
CREATE INDEX journal_to_publish_at ON journal (publish_at) WHERE to_publish AND publish_at IS NOT NULL;

-- Failed orders are searched for to be tried again.
CREATE INDEX archive_failed ON archive (id) WHERE status = 'failed';
