-- The state of one embedded kernel. Amounts are base units of USDC, times Unix seconds,
-- addresses 20 and hashes 32 bytes; NULL stands for zero.

CREATE TABLE kernel (
    id                    INTEGER PRIMARY KEY CHECK (id = 1),
    clock_offset          INTEGER NOT NULL,  -- seconds ahead of the wall clock
    paused                INTEGER NOT NULL,
    starting_balance      INTEGER NOT NULL,  -- what an address owns when it is first seen
    minted                INTEGER NOT NULL   -- the sum of all balances, always
) STRICT;

CREATE TABLE accounts (
    address               BLOB PRIMARY KEY,
    balance               INTEGER NOT NULL CHECK (balance >= 0),
    allowance             INTEGER NOT NULL DEFAULT 0,  -- what the vault may take
    nonce                 INTEGER NOT NULL DEFAULT 0   -- transactions created as requester
) STRICT, WITHOUT ROWID;

-- In the order of creation, so that a new one touches the end of the file and what is worked
-- on lies close together. Only the index by id is in random order, so it is kept small: eight
-- bytes tell a transaction from all others, and the row has the rest.
CREATE TABLE transactions (
    seq                   INTEGER PRIMARY KEY,
    id                    BLOB NOT NULL,
    requester             BLOB NOT NULL,
    provider              BLOB NOT NULL,
    state                 INTEGER NOT NULL,
    amount                INTEGER NOT NULL,
    created_at            INTEGER NOT NULL,
    updated_at            INTEGER NOT NULL,
    deadline              INTEGER NOT NULL,
    service_hash          BLOB,
    escrow_contract       BLOB,
    escrow_id             BLOB,
    attestation_uid       BLOB,
    dispute_window        INTEGER NOT NULL,
    metadata              BLOB,
    platform_fee_bps      INTEGER NOT NULL,
    requester_penalty_bps INTEGER NOT NULL,
    dispute_bond_bps      INTEGER NOT NULL,
    agent_id              BLOB,
    requester_agent_id    BLOB,
    dispute_initiator     BLOB,
    dispute_bond          INTEGER NOT NULL,
    remaining             INTEGER NOT NULL CHECK (remaining >= 0)  -- in escrow, bond aside
) STRICT;
CREATE INDEX transactions_by_id ON transactions (substr(id, 1, 8));
CREATE INDEX transactions_by_requester ON transactions (requester, state);
CREATE INDEX transactions_by_provider ON transactions (provider, state);

-- Escrow ids other than the transaction's own: each can be used once, ever.
CREATE TABLE escrow_ids (escrow_id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE delivery_proofs (
    seq                   INTEGER PRIMARY KEY,  -- the transaction's
    proof                 TEXT NOT NULL         -- JSON
) STRICT;

CREATE TABLE events (
    cursor                INTEGER PRIMARY KEY,
    event                 TEXT NOT NULL         -- JSON
) STRICT;

CREATE TABLE mediators (
    address               BLOB PRIMARY KEY,
    payable_from          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
    seq                   INTEGER PRIMARY KEY,  -- the order of registration
    address               BLOB NOT NULL UNIQUE,
    endpoint              TEXT NOT NULL,
    services              TEXT NOT NULL,        -- descriptors, JSON
    reputation            INTEGER NOT NULL,
    total                 INTEGER NOT NULL,     -- transactions settled
    disputed              INTEGER NOT NULL,     -- of these, lost disputes
    volume                INTEGER NOT NULL,
    registered_at         INTEGER NOT NULL,
    updated_at            INTEGER NOT NULL,
    active                INTEGER NOT NULL
) STRICT;

-- Which agent supports which service type (the contract's `supportedServices`).
CREATE TABLE agent_services (
    service_type_hash     BLOB NOT NULL,
    agent                 INTEGER NOT NULL,     -- agents.seq
    PRIMARY KEY (service_type_hash, agent)
) STRICT, WITHOUT ROWID;
