-- Version 3: a store knows its service's id, and whether a transaction is bound to it. Stage 6 is left.

CREATE TABLE agirails_paywall.meta (
    scope text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (scope, name)
);

ALTER TABLE agirails_paywall.payment
    -- Those that are known already were taken in by a version that gave all of them back.
    ADD COLUMN bound boolean NOT NULL DEFAULT true,
    -- How many runs failed or got lost since the last answer, and when the last one did.
    ADD COLUMN failures integer NOT NULL DEFAULT 0,
    ADD COLUMN failed_at timestamptz;

DROP INDEX agirails_paywall.payment_ended;
CREATE INDEX payment_ended ON agirails_paywall.payment (scope, ended_at) WHERE stage IN (2, 4, 5, 6);
CREATE INDEX payment_followed ON agirails_paywall.payment (scope, id) WHERE stage = 0;
