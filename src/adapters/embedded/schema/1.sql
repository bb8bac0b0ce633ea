-- Version 1 of `ordering.db`. Scripts are never changed once released: a later one alters what this one made.
-- Times are milliseconds since the Unix epoch; JSON columns have the form of `src/wire.rs`.

-- Messages that can be delivered. AUTOINCREMENT: an id is never used twice, so that reading on from the last id seen
-- misses nothing and repeats nothing.
CREATE TABLE messages (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    source  TEXT    NOT NULL,
    orders  INTEGER NOT NULL,
    body    BLOB    NOT NULL
) STRICT;
CREATE INDEX messages_by_source ON messages (source);

-- Messages that wait. They move to `messages`, under a new id, when their time has come.
CREATE TABLE delayed_messages (
    id       INTEGER PRIMARY KEY,
    source   TEXT    NOT NULL,
    ready_at INTEGER NOT NULL,
    orders   INTEGER NOT NULL,
    body     BLOB    NOT NULL
) STRICT;
CREATE INDEX delayed_messages_by_ready_at ON delayed_messages (ready_at);

-- Messages that nobody can read.
CREATE TABLE dead_letters (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    source  TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    bytes   BLOB    NOT NULL
) STRICT;

-- Orders in flight, as far as they have come. Nine writes change a row, so it is kept narrow: what the customer placed
-- lies in `in_flight_content` and is written once.
CREATE TABLE in_flight (
    id          TEXT    NOT NULL PRIMARY KEY,
    passage     INTEGER NOT NULL,
    progress    INTEGER NOT NULL, -- see src/domain/progress.rs
    deliveries  INTEGER NOT NULL, -- how often the attempt at `stage` was begun
    steps       TEXT    NOT NULL, -- the history up to that attempt
    stage       TEXT,             -- the attempt's; NULL before the first
    entered_at  INTEGER,          -- when it was begun first; NULL unless it was
    worker      TEXT,
    outcome     TEXT,             -- what was recorded of it; the first record stays
    content     INTEGER,          -- the row of `in_flight_content`; NULL: the archive has it
    expires_at  INTEGER           -- set when the order has ended
) STRICT, WITHOUT ROWID;
CREATE INDEX in_flight_by_expiry ON in_flight (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE in_flight_content (
    n         INTEGER PRIMARY KEY,
    id        TEXT    NOT NULL, -- the order's
    placed_at INTEGER NOT NULL,
    total     TEXT    NOT NULL,
    content   TEXT    NOT NULL -- what the customer placed
) STRICT;

-- Orders that have ended.
CREATE TABLE archive (
    id             TEXT    NOT NULL PRIMARY KEY,
    passage        INTEGER NOT NULL,
    status         TEXT    NOT NULL,
    customer_id    TEXT,
    reference      TEXT,
    currency       TEXT,
    total          TEXT    NOT NULL,
    placed_at      INTEGER NOT NULL,
    finished_at    INTEGER NOT NULL,
    failure_stage  TEXT,
    failure_reason TEXT,
    steps          TEXT    NOT NULL,
    content        TEXT    NOT NULL -- what the customer placed
) STRICT;

-- One row, rewritten to find out whether writing works.
CREATE TABLE probe (
    n     INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;
