-- Stage 4 is begun: its provider has not delivered it yet. `due_at` is NULL until it was read, then the
-- kernel's time from which on its money can be returned; `net` is what would return.
CREATE INDEX duties_begun ON duties (next_try) WHERE stage = 4 AND due_at IS NULL;
CREATE INDEX duties_to_do ON duties (due_at) WHERE stage IN (1, 4);
