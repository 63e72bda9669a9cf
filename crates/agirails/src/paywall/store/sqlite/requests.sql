-- What was asked by answered calls, for disputes.
CREATE TABLE requests (
    payment BLOB NOT NULL,
    key TEXT NOT NULL,
    -- JSON without the body.
    request BLOB NOT NULL,
    -- NULL where it was longer than what is kept.
    body BLOB,
    UNIQUE (payment, key)
);
