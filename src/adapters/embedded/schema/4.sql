-- What was said last of each stage that somebody paused. A stage without a row is at work.

CREATE TABLE stage_pauses (
    stage        TEXT    NOT NULL PRIMARY KEY,
    revision     INTEGER NOT NULL, -- grows whenever the stage is paused or resumed
    paused_since INTEGER,          -- NULL: it was resumed
    reason       TEXT
) STRICT, WITHOUT ROWID;
