-- Cursors of devices that somebody invents would stay for ever: of a user and conversation the latest 32 are kept.
-- The conversation comes before the device, so that they stand together.
CREATE TABLE cursors_by_conversation (
    user INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    device TEXT NOT NULL,
    delivered INTEGER NOT NULL,
    time INTEGER NOT NULL,              -- ms since the epoch, of the last acknowledgement; 0: before this was kept
    PRIMARY KEY (user, conversation, device)
) WITHOUT ROWID;
INSERT INTO cursors_by_conversation SELECT user, conversation, device, delivered, 0 FROM cursors;
DROP TABLE cursors;
ALTER TABLE cursors_by_conversation RENAME TO cursors;
DELETE FROM cursors WHERE (user, conversation, device) IN (
    SELECT user, conversation, device FROM (
        SELECT user, conversation, device,
            row_number() OVER (PARTITION BY user, conversation ORDER BY delivered DESC, device) AS place
        FROM cursors
    ) WHERE place > 32
);
-- Not fired for a device that has a row: an upsert updates that.
CREATE TRIGGER cursors_bounded AFTER INSERT ON cursors BEGIN
    DELETE FROM cursors WHERE user = NEW.user AND conversation = NEW.conversation AND device IN (
        SELECT device FROM cursors WHERE user = NEW.user AND conversation = NEW.conversation
        ORDER BY time DESC, (device = NEW.device) DESC, delivered DESC LIMIT -1 OFFSET 32
    );
END;
