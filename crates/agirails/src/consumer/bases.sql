-- The URL below which the paywall's free routes are; NULL: the origin.
ALTER TABLE payments ADD COLUMN base TEXT;
