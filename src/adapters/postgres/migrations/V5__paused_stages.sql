CREATE TABLE stage_pauses (
    stage text PRIMARY KEY,
    revision bigint NOT NULL,
    paused_since timestamptz,
    reason text
);

COMMENT ON TABLE stage_pauses IS 'What was said last of each stage that somebody paused. A stage without a row is at work.';
COMMENT ON COLUMN stage_pauses.stage IS 'The name of a stage, as in pre-processing.';
COMMENT ON COLUMN stage_pauses.revision IS 'Grows whenever the stage is paused or resumed.';
COMMENT ON COLUMN stage_pauses.paused_since IS 'NULL: it was resumed.';
