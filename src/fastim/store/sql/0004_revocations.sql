-- Tokens that are refused before their time.
CREATE TABLE revocations (
    kind TEXT NOT NULL CHECK (kind IN ('token', 'user', 'device')),
    subject TEXT NOT NULL,              -- a token's id, or a user's
    device TEXT NOT NULL,               -- of a user's device; else ''
    before INTEGER NOT NULL,            -- ms since the epoch: tokens issued earlier; 0 for a single token
    until INTEGER NOT NULL,             -- ms since the epoch: by then the tokens have expired
    reason TEXT NOT NULL,
    created INTEGER NOT NULL,           -- ms since the epoch
    PRIMARY KEY (kind, subject, device)
) WITHOUT ROWID;
CREATE INDEX revocations_by_end ON revocations (until);
