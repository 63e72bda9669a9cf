-- The key that, together with the offer's service, makes the service hash; NULL: a random hash, of no service.
ALTER TABLE payments ADD COLUMN service_key BLOB;
