-- name: open
INSERT OR IGNORE INTO books (book, token, who, until, version) VALUES (?, 0, '', 0, 0)

-- name: take
UPDATE books SET token = token + (until <= :now), who = :who, until = :until
WHERE book = :book AND (until <= :now OR who = :who)

-- name: leader
SELECT token, who, until, version FROM books WHERE book = ?

-- name: keep
UPDATE books SET until = ? WHERE book = ? AND token = ? AND until > ?

-- name: resign
UPDATE books SET until = 0 WHERE book = ? AND token = ?

-- name: changed
UPDATE books SET version = version + 1 WHERE book = ?

-- name: state
SELECT state FROM book_states WHERE book = ? AND name = ?

-- name: states
SELECT name, state FROM book_states WHERE book = ?

-- name: set_state
INSERT OR REPLACE INTO book_states (book, name, state) VALUES (?, ?, ?)

-- name: forget_state
DELETE FROM book_states WHERE book = ? AND name = ?

-- name: definitions
SELECT name, definition FROM book_entries WHERE book = ?

-- name: define
INSERT OR REPLACE INTO book_entries (book, name, definition) VALUES (?, ?, ?)

-- name: forget_definition
DELETE FROM book_entries WHERE book = ? AND name = ?

-- name: resting
SELECT name FROM book_paused WHERE book = ?

-- name: rest
INSERT OR IGNORE INTO book_paused (book, name) VALUES (?, ?)

-- name: forget_rest
DELETE FROM book_paused WHERE book = ? AND name = ?

-- name: note
INSERT INTO book_history (book, name, note) VALUES (?, ?, ?)

-- name: trim
DELETE FROM book_history WHERE book = ? AND name = ? AND id <= (
    SELECT id FROM book_history WHERE book = ? AND name = ? ORDER BY id DESC LIMIT 1 OFFSET ?
)

-- name: history
SELECT note FROM book_history WHERE book = ? AND name = ? ORDER BY id DESC

-- name: forget_history
DELETE FROM book_history WHERE book = ? AND name = ?
