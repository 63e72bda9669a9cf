-- The protocol's fee of what was paid out. After a dispute it is not all that is missing of the amount.
ALTER TABLE payments ADD COLUMN fee INTEGER;
UPDATE payments SET fee = amount - arrived WHERE arrived IS NOT NULL;
