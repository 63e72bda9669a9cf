-- What the store itself knows: the service's id.
CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

-- Whether the transaction's service hash names this service. Those that are known already were taken
-- in by a version that gave all of them back.
ALTER TABLE payments ADD COLUMN bound INTEGER NOT NULL DEFAULT 1;
-- How many runs failed or got lost since the last answer, and when the last one did: milliseconds of
-- this machine's clock.
ALTER TABLE payments ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payments ADD COLUMN failed_at INTEGER NOT NULL DEFAULT 0;

-- Stage 6 is left.
DROP INDEX payments_ended;
CREATE INDEX payments_ended ON payments (since) WHERE stage IN (2, 4, 5, 6);
CREATE INDEX payments_followed ON payments (id) WHERE stage = 0;
