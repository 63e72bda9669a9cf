-- Events about money that the application was not told yet.
CREATE TABLE webhooks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The same for every try to tell it.
    id BLOB NOT NULL DEFAULT (randomblob(16)),
    payment BLOB NOT NULL,
    requester BLOB NOT NULL,
    amount INTEGER NOT NULL,
    name TEXT NOT NULL,
    -- Unix seconds of the kernel's clock.
    at INTEGER NOT NULL,
    net INTEGER,
    -- Wei.
    gas INTEGER NOT NULL,
    -- Milliseconds of this machine's clock.
    since INTEGER NOT NULL,
    next_try INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX webhooks_by_payment ON webhooks (payment, number);
