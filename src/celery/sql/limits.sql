-- name: any_permit
SELECT 1 FROM permits LIMIT 1

-- name: any_parked
SELECT 1 FROM parked LIMIT 1

-- name: taken
SELECT key, sum(count) FROM (
    SELECT key, count FROM slots WHERE key IN (SELECT value FROM json_each(:keys))
    UNION ALL SELECT key, 1 FROM permits WHERE key IN (SELECT value FROM json_each(:keys))
) GROUP BY key

-- name: change
INSERT INTO slots (key, consumer, count) VALUES (?, ?, ?)
ON CONFLICT (key, consumer) DO UPDATE SET count = count + excluded.count

-- name: none_left
DELETE FROM slots WHERE key = ? AND consumer = ? AND count <= 0

-- name: slots_of
DELETE FROM slots WHERE consumer = ? RETURNING key

-- name: granted
SELECT key, id FROM permits WHERE id IN (SELECT value FROM json_each(?))

-- name: grant
INSERT OR REPLACE INTO permits (key, id, until) VALUES (?, ?, ?)

-- name: forget
DELETE FROM permits WHERE key = ? AND id = ?

-- name: free
DELETE FROM permits WHERE id IN (SELECT value FROM json_each(?)) RETURNING key

-- name: lapsed
DELETE FROM permits WHERE until <= ? RETURNING key

-- name: any_lapsed
SELECT 1 FROM permits WHERE until <= ? LIMIT 1

-- name: where
SELECT queue, rank, coalesce(position, id), task_id FROM messages WHERE id = ?

-- name: park
INSERT INTO parked (key, queue, rank, position, id, slots, task_id) VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: next_queue
SELECT queue FROM parked WHERE key = ? AND queue > ? ORDER BY queue LIMIT 1

-- name: heads
SELECT rank, position, id, slots FROM parked WHERE key = ? AND queue = ? ORDER BY rank, position, id LIMIT ?

-- name: waits
SELECT 1 FROM parked WHERE key = ? AND queue = ? LIMIT 1

-- name: unpark
DELETE FROM parked WHERE key = ? AND queue = ? AND rank = ? AND position = ? AND id = ?

-- name: lease
INSERT INTO leased (id, fence, started, since) VALUES (?, ?, 0, ?)

-- name: wanted
SELECT m.id, m.envelope, m.deliveries, m.interrupted,
       EXISTS (SELECT 1 FROM revocations AS v WHERE v.task_id = m.task_id AND v.until > ?)
FROM messages AS m WHERE m.id = ?

-- name: parked_keys
SELECT DISTINCT key FROM parked WHERE queue IN (SELECT value FROM json_each(?)) AND slots > 0

-- name: next_start
SELECT next FROM rates WHERE key = ?

-- name: set_next_start
INSERT INTO rates (key, next) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET next = excluded.next

-- name: gate
INSERT OR REPLACE INTO gates (queue, key, due, interval, burst) VALUES (?, ?, ?, ?, ?)

-- name: open_gates
SELECT key, interval, burst FROM gates WHERE queue = ? AND due <= ?

-- name: next_gate
SELECT min(due) FROM gates WHERE queue = ?

-- name: no_gate
DELETE FROM gates WHERE queue = ? AND key = ?

-- name: paused
SELECT queue FROM paused ORDER BY queue

-- name: pause
INSERT OR IGNORE INTO paused (queue) VALUES (?)

-- name: resume
DELETE FROM paused WHERE queue = ?

-- name: purge_permits
DELETE FROM permits
WHERE id IN (SELECT id FROM ready WHERE queue = ? UNION ALL SELECT id FROM parked WHERE queue = ?)
RETURNING key

-- name: purge_messages
DELETE FROM messages WHERE id IN (SELECT id FROM parked WHERE queue = ?)

-- name: purge_parked
DELETE FROM parked WHERE queue = ?

-- name: purge_gates
DELETE FROM gates WHERE queue = ?

-- name: purge_uniques
DELETE FROM uniques
WHERE task_id IN (
    SELECT task_id FROM messages
    WHERE id IN (
        SELECT id FROM ready WHERE queue = :queue
        UNION ALL SELECT id FROM delayed WHERE queue = :queue
        UNION ALL SELECT id FROM parked WHERE queue = :queue
    )
)

-- name: find_parked
SELECT key, queue, rank, position, id FROM parked WHERE task_id = ? AND (? OR id = ?)

-- name: find_delayed
SELECT d.queue, d.due, m.rank, coalesce(m.position, m.id), m.id
FROM messages AS m CROSS JOIN delayed AS d ON d.queue = m.queue AND d.due = m.due AND d.id = m.id
WHERE m.task_id = ? AND m.due IS NOT NULL

-- name: not_due
UPDATE messages SET due = NULL WHERE id = ?

-- name: entry
SELECT id, queue, 'ready', task_id, envelope, since, NULL, deliveries, '', '' FROM messages WHERE id = ?

-- name: revoke_stamp
INSERT INTO revoked_stamps (name, value, until) VALUES (?, ?, ?)
ON CONFLICT (name, value) DO UPDATE SET until = max(until, excluded.until)

-- name: forget_stamps
DELETE FROM revoked_stamps WHERE until <= ?

-- name: limit_stamps
DELETE FROM revoked_stamps
WHERE (name, value) IN (SELECT name, value FROM revoked_stamps ORDER BY until DESC LIMIT -1 OFFSET ?)

-- name: revoked_stamps
SELECT name, value FROM revoked_stamps WHERE until > ? ORDER BY name, value

-- name: unique_holder
SELECT task_id FROM uniques WHERE key = ? AND until > ?

-- name: hold_unique
INSERT OR REPLACE INTO uniques (key, task_id, until) VALUES (?, ?, ?)

-- name: forget_uniques
DELETE FROM uniques WHERE until <= ?

-- name: free_unique
DELETE FROM uniques WHERE key = ? AND task_id = ?

-- name: free_uniques_of
DELETE FROM uniques WHERE task_id = ?
