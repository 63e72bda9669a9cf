-- Version 8: events about money that the application was not told yet.

CREATE TABLE agirails_paywall.webhook (
    scope text COLLATE "C" NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    -- The same for every try to tell it.
    id bytea NOT NULL DEFAULT pg_catalog.uuid_send(pg_catalog.gen_random_uuid()),
    payment bytea NOT NULL,
    requester bytea NOT NULL,
    amount bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    -- Unix seconds of the kernel's clock.
    at bigint NOT NULL,
    net bigint,
    -- Wei.
    gas bigint NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, number)
);
CREATE INDEX webhook_by_payment ON agirails_paywall.webhook (scope, payment, number);
