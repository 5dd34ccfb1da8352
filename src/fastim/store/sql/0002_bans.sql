-- Who is shut out: addresses, ranges of them, and users (by public id: one may be shut out who never came).
CREATE TABLE bans (
    kind TEXT NOT NULL CHECK (kind IN ('address', 'user')),
    subject TEXT NOT NULL,              -- a range as its network's CIDR, or a user's id
    until INTEGER NOT NULL,             -- ms since the epoch; 0: for ever
    reason TEXT NOT NULL,
    source TEXT NOT NULL,               -- 'operator', or what counted up to it
    created INTEGER NOT NULL,           -- ms since the epoch
    PRIMARY KEY (kind, subject)
) WITHOUT ROWID;
