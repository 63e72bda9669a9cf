-- Version 4: scopes name whole addresses, long bodies are read in pieces, trees are kept.

-- What an earlier version still writes under a scope that several providers may share is refused: a
-- worker that was not updated serves nothing, rather than something a second time.
ALTER TABLE agirails_paywall.payment ADD CONSTRAINT payment_scope_is_whole
    CHECK (scope !~ '^[0-9]+-[0-9a-f]{8}-[0-9a-f]{8}$') NOT VALID;

-- A part of what is not compressed is read without the rest.
ALTER TABLE agirails_paywall.call ALTER COLUMN body SET STORAGE EXTERNAL;

-- The Merkle trees of closed payments, level by level from the leaves, some hashes in each row.
CREATE TABLE agirails_paywall.tree (
    scope text COLLATE "C" NOT NULL,
    payment bytea NOT NULL,
    level integer NOT NULL,
    number bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (scope, payment, level, number)
);

-- Since when these tables work as a copy of others, Unix seconds of the kernel's clock. Whoever restores
-- them inserts 0.
CREATE TABLE agirails_paywall.restored (
    at bigint NOT NULL
);
