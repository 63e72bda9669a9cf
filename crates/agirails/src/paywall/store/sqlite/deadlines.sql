-- Duties come by their deadlines.
DROP INDEX payments_due;
CREATE INDEX payments_owed ON payments (stage, deadline) WHERE stage IN (1, 3);
