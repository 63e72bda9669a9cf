-- The paywall's tables, version 1. Run once, in one transaction, by the first process that finds no
-- `agirails_paywall` here.
--
-- Stages are numbered as in the code: 0 open, 1 delivering, 2 delivered, 3 returning, 4 returned, 5 lost, 6 left.

CREATE TABLE agirails_paywall.version (
    number integer NOT NULL
);
INSERT INTO agirails_paywall.version VALUES (1);

CREATE TABLE agirails_paywall.payment (
    -- Which provider on which network.
    scope text COLLATE "C" NOT NULL,
    id bytea NOT NULL,
    requester bytea NOT NULL,
    amount bigint NOT NULL,
    deadline bigint NOT NULL,
    window_seconds bigint NOT NULL,
    stage smallint NOT NULL,
    -- Whether its calls have keys; NULL where no call was ever claimed.
    keyed boolean,
    spent bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0,
    calls bigint NOT NULL DEFAULT 0,
    -- How many claims run, those whose lease is over among them.
    running integer NOT NULL DEFAULT 0,
    -- Unix seconds of the last answer.
    answered_at bigint NOT NULL DEFAULT 0,
    content_hash bytea,
    trouble text,
    -- Of a duty: since when, when it is tried next, how often it was.
    owed_since timestamptz,
    due_at timestamptz,
    tries integer NOT NULL DEFAULT 0,
    ended_at timestamptz,
    PRIMARY KEY (scope, id),
    CHECK (spent >= 0 AND reserved >= 0 AND running >= 0 AND spent + reserved <= amount)
) WITH (fillfactor = 80);

CREATE INDEX payment_open ON agirails_paywall.payment (scope, deadline) WHERE stage = 0;
CREATE INDEX payment_due ON agirails_paywall.payment (scope, due_at) WHERE stage IN (1, 3);
CREATE INDEX payment_ended ON agirails_paywall.payment (scope, ended_at) WHERE stage IN (2, 4, 5);

CREATE TABLE agirails_paywall.call (
    scope text COLLATE "C" NOT NULL,
    payment bytea NOT NULL,
    -- UTF-8, byte by byte: a key may hold what a text cannot.
    key bytea NOT NULL,
    digest bytea NOT NULL,
    -- 0 given back, 1 running, 2 answered.
    state smallint NOT NULL,
    owner bytea NOT NULL,
    attempt integer NOT NULL,
    -- The request for the latest attempt: asked again, because its answer got lost, it is told the same.
    ticket bytea NOT NULL,
    price bigint NOT NULL,
    leased_until timestamptz NOT NULL,
    index bigint,
    content_hash bytea,
    answered_at bigint,
    status integer,
    header_names bytea[],
    header_values bytea[],
    body bytea,
    PRIMARY KEY (scope, payment, key)
) WITH (fillfactor = 80);

CREATE TABLE agirails_paywall.lease (
    scope text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    owner bytea NOT NULL,
    leased_until timestamptz NOT NULL,
    PRIMARY KEY (scope, name)
);

-- A counter is the sum of its parts. A connection adds to its own part, so that those who answer
-- at the same time do not wait for each other's commit.
CREATE TABLE agirails_paywall.counter (
    scope text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    part smallint NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (scope, name, part)
) WITH (fillfactor = 50);
