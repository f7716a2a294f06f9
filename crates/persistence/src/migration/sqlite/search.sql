-- The words of messages, as hashes, by the positions of the messages; those of the title of a
-- conversation by minus its number.
CREATE VIRTUAL TABLE agent_search USING fts5(
    words, content='', contentless_delete=1, detail=none, tokenize=ascii
);

-- How far.
CREATE TABLE agent_search_progress (reached INTEGER NOT NULL, numbered INTEGER NOT NULL) STRICT;

INSERT INTO agent_search_progress VALUES (0, 0);

-- The greatest position is given again where its message is gone, and the greatest number.
CREATE TRIGGER agent_messages_leave_search AFTER DELETE ON agent_messages BEGIN
    DELETE FROM agent_search WHERE rowid = OLD.position;
    UPDATE agent_search_progress
    SET reached = COALESCE((SELECT max(position) FROM agent_messages), 0)
    WHERE reached > COALESCE((SELECT max(position) FROM agent_messages), 0);
END;

CREATE TRIGGER agent_conversations_leave_search AFTER DELETE ON agent_conversations BEGIN
    DELETE FROM agent_search WHERE rowid = -OLD.number;
    UPDATE agent_search_progress
    SET numbered = COALESCE((SELECT max(number) FROM agent_conversations), 0)
    WHERE numbered > COALESCE((SELECT max(number) FROM agent_conversations), 0);
END;
