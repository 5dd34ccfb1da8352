-- Who was there when the server ended in order, for the next start; taken out by it.
CREATE TABLE present (
    user TEXT PRIMARY KEY,              -- public id
    status INTEGER NOT NULL,
    time INTEGER NOT NULL               -- ms since the epoch, of the end
) WITHOUT ROWID;
