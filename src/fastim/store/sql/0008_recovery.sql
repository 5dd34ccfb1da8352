-- For clients that come back to another process than they left: the processes that have served the store, in their
-- order, and the last in which an application had its part in a namespace.
CREATE TABLE starts (
    number INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL UNIQUE,
    time INTEGER NOT NULL               -- ms since the epoch
);
CREATE TABLE used (
    namespace TEXT PRIMARY KEY,
    start INTEGER NOT NULL              -- a number of starts
) WITHOUT ROWID;

-- What a process that ended in order has left for the next one; taken out by it.
CREATE TABLE left_behind (
    data BLOB NOT NULL
);

-- Changes of conversations and of who is in them are counted: whose conversations are as he knew them?
ALTER TABLE state ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN change INTEGER NOT NULL DEFAULT 0;    -- the last one
ALTER TABLE users ADD COLUMN change INTEGER NOT NULL DEFAULT 0;            -- the last that put the user out of one
