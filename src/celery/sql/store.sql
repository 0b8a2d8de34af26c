-- name: put
INSERT INTO results (key, value, final, writer, expires) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE
SET value = excluded.value, final = excluded.final, writer = excluded.writer, expires = excluded.expires
WHERE final = 0
   OR (final = 1 AND excluded.final > 0 AND writer <> excluded.writer)
   OR (expires IS NOT NULL AND expires <= ?)

-- name: set
INSERT OR REPLACE INTO results (key, value, final, writer, expires) VALUES (?, ?, 0, '', ?)

-- name: add
INSERT INTO results (key, value, final, writer, expires) VALUES (?, ?, 0, '', ?)
ON CONFLICT (key) DO UPDATE
SET value = excluded.value, final = excluded.final, writer = excluded.writer, expires = excluded.expires
WHERE expires IS NOT NULL AND expires <= ?

-- name: get
SELECT value FROM results WHERE key = ? AND (expires IS NULL OR expires > ?)

-- name: delete
DELETE FROM results WHERE key = ? RETURNING expires IS NULL OR expires > ?

-- name: delete_join
DELETE FROM joins WHERE name = ?

-- name: delete_parts
DELETE FROM parts WHERE name = ?

-- name: add_part
INSERT OR IGNORE INTO parts (name, part, value)
SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM joins WHERE name = ? AND completed IS NOT NULL)

-- name: count_part
INSERT INTO joins (name, arrived) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET arrived = arrived + ?
RETURNING arrived

-- name: complete
UPDATE joins SET completed = ?, last = ? WHERE name = ?

-- name: completed_by
SELECT last FROM joins WHERE name = ? AND completed IS NOT NULL

-- name: parts
SELECT part, value FROM parts WHERE name = ? AND value <> x''

-- name: expire
DELETE FROM results WHERE rowid IN (SELECT rowid FROM results WHERE expires <= ? ORDER BY expires LIMIT 1000)

-- name: old_joins
SELECT name FROM joins WHERE completed <= ? LIMIT 100
