DELETE FROM store WHERE expires_at <= $1;
