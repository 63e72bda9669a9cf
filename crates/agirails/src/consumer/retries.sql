-- What the same call made again is known by, headers included; NULL: by its caller's key alone.
ALTER TABLE purchases ADD COLUMN fingerprint BLOB;
-- Who is at it now: its process lock is held as long as somebody is.
ALTER TABLE purchases ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;
CREATE INDEX purchases_unanswered ON purchases (requester, fingerprint)
    WHERE fingerprint IS NOT NULL AND content_hash IS NULL AND payment IS NOT NULL;
