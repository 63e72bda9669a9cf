-- Version 10: the protocol's fee of what was paid out. After a dispute it is not all that is missing.
ALTER TABLE agirails_paywall.payment ADD COLUMN fee bigint;
UPDATE agirails_paywall.payment SET fee = amount - arrived WHERE arrived IS NOT NULL;
