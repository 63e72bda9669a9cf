-- Version 6: what was asked by answered calls, for disputes.

CREATE TABLE agirails_paywall.request (
    scope text COLLATE "C" NOT NULL,
    payment bytea NOT NULL,
    key bytea NOT NULL,
    -- JSON without the body; bytes, since a target may hold what a text cannot.
    request bytea NOT NULL,
    -- NULL where it was longer than what is kept.
    body bytea,
    PRIMARY KEY (scope, payment, key)
);
