BEGIN IMMEDIATE;

DELETE FROM store WHERE (prefix, key) IN
    (SELECT value ->> 0, value ->> 1 FROM json_each($1));

COMMIT;
