-- Places among the kernel's events: `read`, up to which they were read, and `checked`, up to which they were
-- read once more.
CREATE TABLE places (
    name TEXT NOT NULL PRIMARY KEY,
    cursor INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE duties (
    id BLOB NOT NULL PRIMARY KEY,
    -- 0 not read yet, 1 delivered, 2 disputed, 3 ended
    stage INTEGER NOT NULL,
    -- NULL until the transaction was read.
    provider BLOB,
    amount INTEGER,
    -- The kernel's time from which on it can be settled, Unix seconds.
    due_at INTEGER,
    -- What arrives, after the fee; NULL until it was worked out.
    net INTEGER,
    unprofitable INTEGER NOT NULL DEFAULT 0,
    -- Milliseconds of this machine's clock.
    next_try INTEGER NOT NULL DEFAULT 0,
    -- Of its stage.
    tries INTEGER NOT NULL DEFAULT 0,
    trouble TEXT
) WITHOUT ROWID;

CREATE INDEX duties_unread ON duties (next_try) WHERE stage IN (0, 2, 3);
CREATE INDEX duties_due ON duties (due_at) WHERE stage = 1;

-- Sixteen bytes, big-endian: wei outgrow SQLite's integers.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    owner BLOB NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID;
