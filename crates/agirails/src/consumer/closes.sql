-- Whether its requester asked the service to end it.
ALTER TABLE payments ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
