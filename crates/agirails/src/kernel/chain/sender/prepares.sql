-- The last send of the same request, which needs this one to be mined before it.
ALTER TABLE sends ADD COLUMN prepares INTEGER;
CREATE INDEX sends_by_prepares ON sends (prepares) WHERE prepares IS NOT NULL;
