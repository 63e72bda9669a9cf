-- Version 9: what is counted and added up is in the indexes alone; a row is read for none of it.

DROP INDEX agirails_paywall.payment_settling;
CREATE INDEX payment_settling ON agirails_paywall.payment (scope, settle_at, net) WHERE stage = 2;
CREATE INDEX payment_lost ON agirails_paywall.payment (scope) WHERE stage = 5;

-- A server that has no statistics yet would take this index for the primary key, and read all of a
-- provider's payments to find one. It is for those who list them, and say so: every stage is as much.
DROP INDEX agirails_paywall.payment_opened;
CREATE INDEX payment_opened ON agirails_paywall.payment (scope, opened_at, id) WHERE stage >= 0;
