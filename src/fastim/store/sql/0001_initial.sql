-- Integer keys inside; public ids are text. What a message's commit changes stands in narrow tables, so that a
-- batch over many conversations writes few pages.

CREATE TABLE users (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE
);

CREATE TABLE conversations (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('direct', 'group')),
    title TEXT NOT NULL,
    owner INTEGER NOT NULL,             -- user; 0: the system
    member_count INTEGER NOT NULL,
    created INTEGER NOT NULL,           -- ms since the epoch
    peer_low INTEGER,                   -- of a direct one: its users, the smaller key first
    peer_high INTEGER
);
CREATE UNIQUE INDEX conversations_by_peers ON conversations (peer_low, peer_high) WHERE peer_low IS NOT NULL;

-- The end of each conversation.
CREATE TABLE tails (
    conversation INTEGER PRIMARY KEY,
    last_seq INTEGER NOT NULL,
    last_time INTEGER NOT NULL          -- ms since the epoch; of the creation while there is no message
);

CREATE TABLE members (
    conversation INTEGER NOT NULL,
    user INTEGER NOT NULL,
    owner INTEGER NOT NULL,             -- 1: the owner
    read INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    joined INTEGER NOT NULL,            -- ms since the epoch
    joined_seq INTEGER NOT NULL,
    PRIMARY KEY (conversation, user)
) WITHOUT ROWID;
CREATE INDEX members_by_user ON members (user, conversation);

-- What each device of a member has got.
CREATE TABLE cursors (
    user INTEGER NOT NULL,
    device TEXT NOT NULL,
    conversation INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    PRIMARY KEY (user, device, conversation)
) WITHOUT ROWID;

-- Append-only, in commit order. No index on the public id: a random key costs 3 to 8 times as much at a million rows.
CREATE TABLE messages (
    key INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL CHECK (seq > 0),
    id TEXT NOT NULL,
    sender INTEGER NOT NULL,            -- user; 0: the system
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    content BLOB NOT NULL,
    encoding INTEGER NOT NULL,
    time INTEGER NOT NULL,              -- ms since the epoch
    client_id TEXT,
    reply_to INTEGER
);
CREATE UNIQUE INDEX messages_by_seq ON messages (conversation, seq);

-- Ids that make sending idempotent. The client's id comes first: time-ordered ones then arrive at the tree's end.
CREATE TABLE client_ids (
    client_id TEXT NOT NULL,
    sender INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    message INTEGER NOT NULL,
    PRIMARY KEY (client_id, sender, conversation)
) WITHOUT ROWID;

-- The same for creating conversations.
CREATE TABLE creations (
    client_id TEXT NOT NULL,
    creator INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    PRIMARY KEY (client_id, creator)
) WITHOUT ROWID;

CREATE TABLE state (
    pruned_message INTEGER NOT NULL,    -- client_ids of messages up to here are gone
    probe BLOB                          -- written to find out whether writing works again
);
INSERT INTO state VALUES (0, NULL);
