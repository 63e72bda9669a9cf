-- Tells this file from every other one: two state directories are two ledgers.
ALTER TABLE kernel ADD COLUMN ledger_id BLOB NOT NULL DEFAULT x'';
UPDATE kernel SET ledger_id = randomblob(16);
