-- Which generation of the kernel this file plays, and the grace of its deployment in seconds; what a
-- transaction commits to from AIP-14c on.
ALTER TABLE kernel ADD COLUMN generation TEXT NOT NULL DEFAULT '2026-05';
ALTER TABLE kernel ADD COLUMN recovery_grace INTEGER NOT NULL DEFAULT 0;
ALTER TABLE transactions ADD COLUMN result_hash BLOB;
ALTER TABLE transactions ADD COLUMN agreement_hash BLOB;
