-- Which transactions a party has, as far as their `TransactionCreated` has been read. A state
-- file belongs to one kernel on one chain.

CREATE TABLE created (
    cursor     INTEGER PRIMARY KEY,  -- the event's: block << 20 | (log index + 1)
    id         BLOB NOT NULL UNIQUE, -- a transaction is created once, in whichever block stays
    block_hash BLOB NOT NULL,
    requester  BLOB NOT NULL,
    provider   BLOB NOT NULL
) STRICT;
CREATE INDEX created_by_requester ON created (requester);
CREATE INDEX created_by_provider ON created (provider);

-- Up to which block all of a party's transactions are in `created`.
CREATE TABLE scanned (
    party      BLOB PRIMARY KEY,
    block      INTEGER NOT NULL,
    hash       BLOB NOT NULL         -- the block's
) STRICT, WITHOUT ROWID;
