-- Which chain this journal belongs to.
CREATE TABLE chain (genesis BLOB NOT NULL) STRICT;

-- One operation at one nonce. state: 0 open, 1 mined, 3 superseded. told: its caller knows.
CREATE TABLE sends (
    id INTEGER PRIMARY KEY,
    sender BLOB NOT NULL,
    nonce INTEGER NOT NULL,
    digest BLOB NOT NULL,
    owner INTEGER NOT NULL,
    state INTEGER NOT NULL,
    told INTEGER NOT NULL,
    block INTEGER,
    at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX sends_by_nonce ON sends (sender, nonce) WHERE state <> 3;
CREATE INDEX sends_by_digest ON sends (digest) WHERE told = 0;
CREATE INDEX sends_open ON sends (sender, state, block);

-- The signed transactions that compete for a send's nonce.
CREATE TABLE attempts (
    hash BLOB NOT NULL UNIQUE,
    send INTEGER NOT NULL,
    raw BLOB NOT NULL,
    calls_off INTEGER NOT NULL
) STRICT;
CREATE INDEX attempts_by_send ON attempts (send);
