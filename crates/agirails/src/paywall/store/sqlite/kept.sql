-- Whose payment it is. NULL in rows of earlier versions, which named nobody.
ALTER TABLE payments ADD COLUMN provider BLOB;

-- How long a body is that lies in `pieces`; NULL where it lies in `body`.
ALTER TABLE calls ADD COLUMN length INTEGER;

-- Long bodies, so that a repeat reads them piece by piece.
CREATE TABLE pieces (
    payment BLOB NOT NULL,
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (payment, key, number)
);

-- The Merkle trees of closed payments, level by level from the leaves, some hashes in each row.
CREATE TABLE trees (
    payment BLOB NOT NULL,
    level INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    UNIQUE (payment, level, number)
);

-- Since when this store works as a copy of another one, Unix seconds of the kernel's clock: 0 until it
-- is opened.
CREATE TABLE restored (
    at INTEGER NOT NULL
);
