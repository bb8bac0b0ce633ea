-- Dead letters are named by an id that they keep wherever they are, and listed newest first.

ALTER TABLE dead_letters RENAME TO numbered_dead_letters;

CREATE TABLE dead_letters (
    id      TEXT    NOT NULL PRIMARY KEY,
    source  TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    bytes   BLOB    NOT NULL
) STRICT;

-- Those that had a number get a UUID of version 7: of their moment, with the number where others have chance.
INSERT INTO dead_letters (id, source, reason, at, bytes)
SELECT printf('%08x-%04x-7000-8000-%012x', max(at, 0) >> 16, max(at, 0) & 0xffff, id), source, reason, at, bytes
FROM numbered_dead_letters;

DROP TABLE numbered_dead_letters;

CREATE INDEX dead_letters_by_moment ON dead_letters (at, id);
CREATE INDEX dead_letters_by_source ON dead_letters (source, at, id);
