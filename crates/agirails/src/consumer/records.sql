-- One row per transaction that was, or is to be, paid for calls. Written before it is created.
CREATE TABLE payments (
    id INTEGER PRIMARY KEY,
    requester BLOB NOT NULL,
    provider BLOB NOT NULL,
    origin TEXT NOT NULL,
    -- 0 single, 1 prepaid
    kind INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    -- What calls have taken of it, those under way among them.
    used INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    -- From this time on no new call is made with it.
    usable_until INTEGER NOT NULL,
    dispute_window INTEGER NOT NULL,
    -- Unlike any other transaction's, so that it is found again where its id was not written down.
    service_hash BLOB NOT NULL,
    trusted INTEGER NOT NULL,
    transaction_id BLOB,
    -- 0 planned, 1 created, 2 funded, 3 retired, 4 settled, 5 refunded, 6 abandoned, 7 disputed
    stage INTEGER NOT NULL,
    returned INTEGER NOT NULL,
    -- How often somebody set out to create and fund it, and who is at it now.
    tries INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    -- When it was planned, by the budget's clock and by the kernel's.
    at INTEGER NOT NULL,
    planned_at INTEGER NOT NULL
) STRICT;
CREATE INDEX payments_by_time ON payments (requester, at);
CREATE INDEX payments_by_origin ON payments (requester, origin, stage);
CREATE UNIQUE INDEX payments_by_transaction ON payments (requester, transaction_id)
    WHERE transaction_id IS NOT NULL;

-- One row per paid call.
CREATE TABLE purchases (
    id INTEGER PRIMARY KEY,
    requester BLOB NOT NULL,
    key TEXT NOT NULL,
    -- Which request; another one with the same key is refused.
    digest BLOB NOT NULL,
    -- NULL where its money was given back.
    payment INTEGER REFERENCES payments (id),
    -- The Idempotency-Key, empty for a call that takes the whole transaction.
    call_key TEXT NOT NULL,
    price INTEGER NOT NULL,
    -- Whether the payment was made for this purchase.
    funds INTEGER NOT NULL,
    content_hash BLOB,
    receipt TEXT,
    at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX purchases_by_key ON purchases (requester, key);
CREATE INDEX purchases_by_payment ON purchases (payment);

-- What a route cost last, so that a call from a balance need not ask first.
CREATE TABLE prices (
    origin TEXT NOT NULL,
    route TEXT NOT NULL,
    provider BLOB NOT NULL,
    price INTEGER NOT NULL,
    PRIMARY KEY (origin, route)
) STRICT, WITHOUT ROWID;
