-- What brings a file of an earlier schema to the next one.

-- name: from_1
ALTER TABLE joins ADD COLUMN last TEXT

-- name: from_2
CREATE TABLE parked (
    key      TEXT NOT NULL,                         -- of the permit that the message waits for
    queue    TEXT NOT NULL,
    rank     INTEGER NOT NULL,
    position INTEGER NOT NULL,
    id       INTEGER NOT NULL,
    slots    INTEGER NOT NULL,                      -- of that permit; 0 if it is another kind
    task_id  TEXT NOT NULL,
    PRIMARY KEY (key, queue, rank, position, id)
) WITHOUT ROWID;
CREATE INDEX parked_tasks ON parked (task_id);
CREATE TABLE permits (
    key   TEXT NOT NULL,
    id    INTEGER NOT NULL,
    until REAL,                                     -- NULL: started; else woken, and kept for it until then
    PRIMARY KEY (key, id)
) WITHOUT ROWID;
CREATE INDEX permits_ids ON permits (id);
CREATE TABLE rates (key TEXT PRIMARY KEY, next REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE gates (
    queue    TEXT NOT NULL,
    key      TEXT NOT NULL,
    due      REAL NOT NULL,                         -- when the next of those that wait for a rate is woken
    interval REAL NOT NULL,
    burst    INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE TABLE paused (queue TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE uniques (key TEXT PRIMARY KEY, task_id TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX uniques_tasks ON uniques (task_id);
CREATE INDEX uniques_until ON uniques (until);
CREATE TABLE revoked_stamps (
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (name, value)
) WITHOUT ROWID;
CREATE INDEX revocations_until ON revocations (until);
CREATE INDEX messages_waiting ON messages (task_id) WHERE due IS NOT NULL

-- name: from_3
CREATE TABLE books (
    book    TEXT PRIMARY KEY,
    token   INTEGER NOT NULL,                       -- the fence: grows with every leader
    who     TEXT NOT NULL,
    until   REAL NOT NULL,
    version INTEGER NOT NULL                        -- grows with every change of a definition
) WITHOUT ROWID;
CREATE TABLE book_entries (
    book       TEXT NOT NULL,
    name       TEXT NOT NULL,
    definition BLOB NOT NULL,
    PRIMARY KEY (book, name)
) WITHOUT ROWID;
CREATE TABLE book_states (book TEXT NOT NULL, name TEXT NOT NULL, state BLOB NOT NULL, PRIMARY KEY (book, name)) WITHOUT ROWID;
CREATE TABLE book_paused (book TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (book, name)) WITHOUT ROWID;
CREATE TABLE book_history (id INTEGER PRIMARY KEY, book TEXT NOT NULL, name TEXT NOT NULL, note BLOB NOT NULL);
CREATE INDEX book_history_names ON book_history (book, name, id)

-- name: from_4
CREATE TABLE slots (
    key      TEXT NOT NULL,
    consumer INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (key, consumer)
) WITHOUT ROWID;
INSERT INTO slots
SELECT p.key, l.fence >> 32, count(*) FROM permits AS p JOIN leased AS l ON l.id = p.id WHERE p.until IS NULL GROUP BY 1, 2;
DELETE FROM permits WHERE until IS NULL
