-- Whoever sent a message over a connection that can be recovered has it by the answer, and is not sent it again.
ALTER TABLE messages ADD COLUMN origin TEXT;    -- the sending session; NULL where its connection cannot be recovered
