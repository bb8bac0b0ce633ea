-- Who wants to be told what happens to orders, and the events that are to be sent to them.

CREATE TABLE webhooks (
    id          TEXT    NOT NULL PRIMARY KEY,
    url         TEXT    NOT NULL,
    events      TEXT    NOT NULL, -- their names, separated by commas
    description TEXT,
    secret      TEXT    NOT NULL, -- what events are signed with, as the receiver has it
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE webhook_deliveries (
    webhook    TEXT    NOT NULL,
    order_id   TEXT    NOT NULL,
    sequence   INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    stage      TEXT,
    attempt    INTEGER,
    reason     TEXT,
    sent       INTEGER NOT NULL DEFAULT 0, -- how often in vain
    kept_at    INTEGER NOT NULL,
    due_at     INTEGER NOT NULL,
    settled_at INTEGER, -- delivered, or given up
    given_up   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (webhook, order_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook, due_at) WHERE settled_at IS NULL;
CREATE INDEX webhook_deliveries_settled ON webhook_deliveries (settled_at) WHERE settled_at IS NOT NULL;
