-- Orders that are to go no further.

ALTER TABLE in_flight ADD COLUMN cancelled TEXT; -- that and why, as JSON; NULL: it goes on

-- What was asked for, until the order has ended.
CREATE TABLE cancellations (
    id      TEXT    NOT NULL PRIMARY KEY, -- the order's
    passage INTEGER NOT NULL,             -- the one that is to end
    at      INTEGER NOT NULL,
    reason  TEXT
) STRICT;

-- Messages of orders that have a time set. They move to `messages` when it has come; unlike `delayed_messages` they may wait
-- for a year.
CREATE TABLE scheduled_messages (
    id       INTEGER PRIMARY KEY,
    source   TEXT    NOT NULL,
    ready_at INTEGER NOT NULL,
    orders   INTEGER NOT NULL,
    body     BLOB    NOT NULL
) STRICT;
CREATE INDEX scheduled_messages_by_ready_at ON scheduled_messages (ready_at);

-- Failed orders are searched for to be tried again.
CREATE INDEX archive_failed ON archive (id) WHERE status = 'failed';
