-- What its requester's own cancellation keeps back, written before it is sent.
ALTER TABLE payments ADD COLUMN penalty INTEGER NOT NULL DEFAULT 0;
