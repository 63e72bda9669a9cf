-- What the transaction names as agreed; NULL for nothing.
ALTER TABLE payments ADD COLUMN agreement_hash BLOB;
