-- Version 2: duties come by their deadlines.

DROP INDEX agirails_paywall.payment_due;
CREATE INDEX payment_owed ON agirails_paywall.payment (scope, stage, deadline) WHERE stage IN (1, 3);
