-- Whether its provider ended it, or counts less of it as left, while calls could still be made with it.
ALTER TABLE payments ADD COLUMN ended_early INTEGER NOT NULL DEFAULT 0;
-- After how many seconds without a call its provider may end it; NULL: not before its time is over.
ALTER TABLE payments ADD COLUMN idle_seconds INTEGER;
