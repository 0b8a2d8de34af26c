-- A message is written once, to `messages`, and deleted once. What moves through its life are small rows in `ready`,
-- `delayed`, `leased` and `dead`, of which exactly one names it: a claim of 200 messages rewrites a few pages, not 200
-- envelopes.

-- name: messages
CREATE TABLE messages (
    id          INTEGER PRIMARY KEY,                -- the tag; never used twice: see `marks`
    queue       TEXT NOT NULL,
    rank        INTEGER NOT NULL,                   -- nine minus the priority; -1 stands before all
    position    INTEGER,                            -- place in the queue; NULL is the id
    due         REAL,
    since       REAL NOT NULL,                      -- when it came, or came back
    deliveries  INTEGER NOT NULL DEFAULT 0,         -- executions that were started
    interrupted INTEGER NOT NULL DEFAULT 0,         -- the last one ended with its worker
    task_id     TEXT NOT NULL,
    envelope    BLOB NOT NULL
);
-- One row. `gone`: the highest tag or position that was given away and is not in `messages` any more.  (AUTOINCREMENT
-- would rewrite a page for every message that is sent; this one is touched once for a batch of messages that end.)
-- `filed`: up to this tag messages have been given their row in `ready` or `delayed`. Whoever looks there first files
-- what is new, so that a publish writes to one place only.
CREATE TABLE marks (gone INTEGER NOT NULL, filed INTEGER NOT NULL);
INSERT INTO marks VALUES (0, 0);
CREATE TABLE ready (
    queue    TEXT NOT NULL,
    rank     INTEGER NOT NULL,
    position INTEGER NOT NULL,
    id       INTEGER NOT NULL,
    PRIMARY KEY (queue, rank, position, id)
) WITHOUT ROWID;
CREATE TABLE delayed (
    queue TEXT NOT NULL,
    due   REAL NOT NULL,
    id    INTEGER NOT NULL,
    PRIMARY KEY (queue, due, id)
) WITHOUT ROWID;
CREATE TABLE leased (
    id      INTEGER PRIMARY KEY,
    fence   INTEGER NOT NULL,                       -- the consumer's id in the upper 31 bits, its claim in the lower 32
    started INTEGER NOT NULL,
    since   REAL NOT NULL
);
CREATE TABLE dead (
    id     INTEGER PRIMARY KEY,
    since  REAL NOT NULL,
    reason TEXT NOT NULL
)

-- name: routing
CREATE TABLE queues (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE bindings (
    exchange TEXT NOT NULL,
    type     TEXT NOT NULL,
    pattern  TEXT NOT NULL,
    queue    TEXT NOT NULL,
    PRIMARY KEY (exchange, type, pattern, queue)
) WITHOUT ROWID

-- name: consumers
CREATE TABLE consumers (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    name     TEXT NOT NULL,
    queues   TEXT NOT NULL,                         -- a JSON list of names
    deadline REAL NOT NULL                          -- when its leases run out
);
CREATE TABLE revocations (task_id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID

-- name: limits
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
CREATE TABLE slots (                                -- what consumers have of those that they have started
    key      TEXT NOT NULL,
    consumer INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (key, consumer)
) WITHOUT ROWID;
CREATE TABLE permits (                              -- what is kept for those that were woken
    key   TEXT NOT NULL,
    id    INTEGER NOT NULL,
    until REAL,
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

-- name: results
CREATE TABLE results (
    key     TEXT PRIMARY KEY,
    value   BLOB NOT NULL,
    final   INTEGER NOT NULL,                       -- 2 is never replaced, 1 only by another writer, 0 always
    writer  TEXT NOT NULL,
    expires REAL
);
CREATE INDEX results_expires ON results (expires) WHERE expires IS NOT NULL;
CREATE TABLE joins (
    name      TEXT PRIMARY KEY,
    arrived   INTEGER NOT NULL,                     -- parts that are there, less those by which it has grown
    completed REAL,
    last      TEXT                                  -- the part that completed it
) WITHOUT ROWID;
CREATE INDEX joins_completed ON joins (completed) WHERE completed IS NOT NULL;
CREATE TABLE parts (
    name  TEXT NOT NULL,
    part  TEXT NOT NULL,
    value BLOB NOT NULL,                            -- empty: no part, it only says that the join waits for one more
    PRIMARY KEY (name, part)
) WITHOUT ROWID

-- name: bus
CREATE TABLE bus (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    topic   TEXT NOT NULL,
    payload BLOB NOT NULL,
    until   REAL NOT NULL
)

-- name: books
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
