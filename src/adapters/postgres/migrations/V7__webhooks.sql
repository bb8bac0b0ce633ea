CREATE TABLE webhooks (
    id uuid PRIMARY KEY,
    url text NOT NULL,
    events text[] NOT NULL,
    description text,
    secret text NOT NULL,
    created_at timestamptz NOT NULL
);

-- No reference to webhooks: what was to be delivered to one that is removed goes bit by bit.
CREATE TABLE webhook_deliveries (
    webhook uuid NOT NULL,
    order_id uuid NOT NULL,
    sequence bigint NOT NULL,
    kind text NOT NULL,
    at timestamptz NOT NULL,
    stage text,
    attempt bigint,
    reason text,
    sent integer NOT NULL DEFAULT 0,
    kept_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    settled_at timestamptz,
    given_up boolean NOT NULL DEFAULT false,
    PRIMARY KEY (webhook, order_id, sequence)
);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook, due_at) WHERE settled_at IS NULL;
CREATE INDEX webhook_deliveries_settled ON webhook_deliveries (settled_at) WHERE settled_at IS NOT NULL;

COMMENT ON TABLE webhooks IS 'Who wants to be told what happens to orders.';
COMMENT ON COLUMN webhooks.secret IS 'What events are signed with, as the receiver has it.';
COMMENT ON TABLE webhook_deliveries IS 'Events that are to be sent to webhooks, and for a while those that were.';
COMMENT ON COLUMN webhook_deliveries.sent IS 'How often it was sent in vain.';
COMMENT ON COLUMN webhook_deliveries.settled_at IS 'When it was delivered or given up.';
