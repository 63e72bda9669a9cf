CREATE TABLE payments (
    id BLOB NOT NULL PRIMARY KEY,
    requester BLOB NOT NULL,
    amount INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    window INTEGER NOT NULL,
    -- Whether its calls have keys; NULL where no call was ever claimed.
    keyed INTEGER,
    stage INTEGER NOT NULL,
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    calls INTEGER NOT NULL DEFAULT 0,
    answered_at INTEGER NOT NULL DEFAULT 0,
    content_hash BLOB,
    -- Milliseconds of this machine's clock, of the stage it is at.
    since INTEGER NOT NULL,
    next_try INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    trouble TEXT,
    CHECK (spent + reserved <= amount)
) WITHOUT ROWID;

CREATE INDEX payments_open ON payments (deadline) WHERE stage = 0;
CREATE INDEX payments_due ON payments (next_try) WHERE stage IN (1, 3);
CREATE INDEX payments_ended ON payments (since) WHERE stage IN (2, 4, 5);

CREATE TABLE calls (
    payment BLOB NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    -- 0 running, 1 answered, 2 failed
    state INTEGER NOT NULL,
    owner BLOB NOT NULL,
    attempt INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    price INTEGER NOT NULL,
    position INTEGER,
    content_hash BLOB,
    answered_at INTEGER,
    -- NULL where the answer was not kept.
    status INTEGER,
    headers BLOB,
    body BLOB,
    UNIQUE (payment, key)
);

CREATE TABLE totals (
    route TEXT NOT NULL PRIMARY KEY,
    calls INTEGER NOT NULL,
    revenue INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    owner BLOB NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID;
