-- What was asked and answered by a paid call, for disputes.
CREATE TABLE exchanges (
    purchase INTEGER PRIMARY KEY REFERENCES purchases (id),
    -- JSON without the bodies.
    exchange BLOB NOT NULL,
    -- The bodies; NULL where they are longer than what is kept, or had to make room.
    asked BLOB,
    answered BLOB,
    -- How many bytes of bodies these are.
    bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX exchanges_with_bodies ON exchanges (purchase) WHERE bytes > 0;

-- How many bytes of bodies are kept in all.
CREATE TABLE kept (
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO kept VALUES (0);
