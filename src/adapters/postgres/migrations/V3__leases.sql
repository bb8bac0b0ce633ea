-- A handful of rows, each rewritten every few seconds: room on the page for the next version.
CREATE TABLE leases (
    name text PRIMARY KEY,
    holder text NOT NULL,
    until timestamptz NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE leases IS 'Which process does what only one of them should do.';
COMMENT ON COLUMN leases.until IS 'By the clock of this database alone.';
