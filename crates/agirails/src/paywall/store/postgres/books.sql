-- Version 5: the books. When a payment came, was delivered and paid out, what arrived of it, and what its
-- moves cost. Stage 7 is settled, 8 disputed.

ALTER TABLE agirails_paywall.payment
    ADD COLUMN opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Unix seconds of the kernel's clock; 0 is never.
    ADD COLUMN delivered_at bigint NOT NULL DEFAULT 0,
    ADD COLUMN settle_at bigint NOT NULL DEFAULT 0,
    ADD COLUMN settled_at bigint NOT NULL DEFAULT 0,
    -- What is to arrive, and what did, where it is known.
    ADD COLUMN net bigint NOT NULL DEFAULT 0,
    ADD COLUMN arrived bigint,
    -- Wei.
    ADD COLUMN gas bigint NOT NULL DEFAULT 0;
-- What is known already was locked at 1 %, the rate of all kernels so far.
UPDATE agirails_paywall.payment SET net = greatest(amount - greatest(amount / 100, 50000), 0);

ALTER TABLE agirails_paywall.call ADD COLUMN route text COLLATE "C" NOT NULL DEFAULT '';

-- Totals that outlive the payments. Days are of UTC, counted from 1970. What is settled is shared out
-- among the routes by what their calls took; what cannot be shared stands with the route that took most.
CREATE TABLE agirails_paywall.books (
    scope text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    route text COLLATE "C" NOT NULL,
    requester bytea NOT NULL,
    calls bigint NOT NULL DEFAULT 0,
    gross bigint NOT NULL DEFAULT 0,
    settled bigint NOT NULL DEFAULT 0,
    paid_out bigint NOT NULL DEFAULT 0,
    fee bigint NOT NULL DEFAULT 0,
    net bigint NOT NULL DEFAULT 0,
    gas bigint NOT NULL DEFAULT 0,
    refunded bigint NOT NULL DEFAULT 0,
    disputed bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, day, route, requester)
) WITH (fillfactor = 50);

-- What is delivered is kept until it is settled.
DROP INDEX agirails_paywall.payment_ended;
CREATE INDEX payment_ended ON agirails_paywall.payment (scope, ended_at) WHERE stage IN (4, 5, 6, 7);
CREATE INDEX payment_settling ON agirails_paywall.payment (scope, settle_at) WHERE stage = 2;
DROP INDEX agirails_paywall.payment_followed;
CREATE INDEX payment_followed ON agirails_paywall.payment (scope, stage, id) WHERE stage IN (0, 2, 8);
CREATE INDEX payment_opened ON agirails_paywall.payment (scope, opened_at, id);
