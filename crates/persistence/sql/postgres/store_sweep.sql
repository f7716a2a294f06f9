DELETE FROM store WHERE expires_at <= statement_timestamp();
