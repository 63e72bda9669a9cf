-- The books: when a payment came, was delivered and paid out, what arrived of it, and what its moves
-- cost. Unix seconds, `opened_at` of this machine's clock and the others of the kernel's; 0 is never.
ALTER TABLE payments ADD COLUMN opened_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payments ADD COLUMN delivered_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payments ADD COLUMN settle_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payments ADD COLUMN settled_at INTEGER NOT NULL DEFAULT 0;
-- What is to arrive, and what did, where it is known.
ALTER TABLE payments ADD COLUMN net INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payments ADD COLUMN arrived INTEGER;
-- Wei.
ALTER TABLE payments ADD COLUMN gas INTEGER NOT NULL DEFAULT 0;
-- What is known already was locked at 1 %, the rate of all kernels so far.
UPDATE payments SET opened_at = since / 1000, net = max(amount - max(amount / 100, 50000), 0);

ALTER TABLE calls ADD COLUMN route TEXT NOT NULL DEFAULT '';

-- Totals that outlive the payments. Days are of UTC, counted from 1970. What is settled is shared out
-- among the routes by what their calls took; what cannot be shared stands with the route that took most.
CREATE TABLE books (
    day INTEGER NOT NULL,
    route TEXT NOT NULL,
    requester BLOB NOT NULL,
    calls INTEGER NOT NULL DEFAULT 0,
    gross INTEGER NOT NULL DEFAULT 0,
    settled INTEGER NOT NULL DEFAULT 0,
    paid_out INTEGER NOT NULL DEFAULT 0,
    fee INTEGER NOT NULL DEFAULT 0,
    net INTEGER NOT NULL DEFAULT 0,
    gas INTEGER NOT NULL DEFAULT 0,
    refunded INTEGER NOT NULL DEFAULT 0,
    disputed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, route, requester)
) WITHOUT ROWID;

-- Stage 2 is delivered, 7 settled, 8 disputed. What is delivered is kept until it is settled.
DROP INDEX payments_ended;
CREATE INDEX payments_ended ON payments (since) WHERE stage IN (4, 5, 6, 7);
CREATE INDEX payments_settling ON payments (settle_at) WHERE stage = 2;
DROP INDEX payments_followed;
CREATE INDEX payments_followed ON payments (stage, id) WHERE stage IN (0, 2, 8);
CREATE INDEX payments_opened ON payments (opened_at, id);
