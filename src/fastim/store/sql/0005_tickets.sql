-- Migration tickets that were used: each is good once, at whichever server it is shown first.
CREATE TABLE tickets (
    id TEXT PRIMARY KEY,
    until INTEGER NOT NULL              -- ms since the epoch: by then it has expired
) WITHOUT ROWID;
CREATE INDEX tickets_by_end ON tickets (until);
