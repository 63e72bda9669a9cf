-- What one machine knows about its part in a kernel on a chain. Addresses have 20 bytes, hashes 32;
-- times are Unix seconds.

-- Proofs of deliveries made from here: the chain keeps none.
CREATE TABLE delivery_proofs (
    id       BLOB PRIMARY KEY,      -- the transaction's
    proof    TEXT NOT NULL,         -- JSON
    kept_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
