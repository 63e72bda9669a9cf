-- What is counted and added up is in the indexes alone; a row is read for none of it.
DROP INDEX payments_settling;
CREATE INDEX payments_settling ON payments (stage, settle_at, net) WHERE stage = 2;
CREATE INDEX payments_lost ON payments (stage) WHERE stage = 5;
