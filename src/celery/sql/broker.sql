-- name: declare
INSERT OR IGNORE INTO queues (name) VALUES (?)

-- name: forget
DELETE FROM queues WHERE name = ?

-- name: unbind
DELETE FROM bindings WHERE queue = ?

-- name: unheard
SELECT DISTINCT queue FROM bindings AS b
WHERE type = 'fleeting'
AND queue NOT IN (SELECT listened.value FROM consumers, json_each(consumers.queues) AS listened WHERE deadline > :now)
AND (
    NOT EXISTS (SELECT 1 FROM dead AS d CROSS JOIN messages AS m ON m.id = d.id WHERE m.queue = b.queue)
    OR EXISTS (SELECT 1 FROM ready WHERE queue = b.queue)
    OR EXISTS (SELECT 1 FROM delayed WHERE queue = b.queue)
    OR EXISTS (SELECT 1 FROM parked WHERE queue = b.queue)
    OR EXISTS (SELECT 1 FROM leased AS l CROSS JOIN messages AS m ON m.id = l.id WHERE m.queue = b.queue)
)

-- name: forget_leased
DELETE FROM messages WHERE queue = ? AND id IN (SELECT id FROM leased) RETURNING id

-- name: forget_lease
DELETE FROM leased WHERE id = ?

-- name: has_dead
SELECT 1 FROM dead AS d CROSS JOIN messages AS m ON m.id = d.id WHERE m.queue = ? LIMIT 1

-- name: listens
SELECT 1 FROM consumers, json_each(consumers.queues) AS listened
WHERE listened.value = ? AND deadline > ? LIMIT 1

-- name: bind
INSERT OR IGNORE INTO bindings (exchange, type, pattern, queue) VALUES (?, ?, ?, ?)

-- name: bindings
SELECT exchange, type, pattern, queue FROM bindings WHERE exchange = ?

-- name: last
SELECT max(coalesce((SELECT max(id) FROM messages), 0), (SELECT gone FROM marks))

-- name: note_last
UPDATE marks SET gone = (SELECT max(id) FROM messages) WHERE gone < (SELECT max(id) FROM messages)

-- name: insert
INSERT INTO messages (id, queue, rank, due, since, task_id, envelope)
VALUES (max(coalesce((SELECT max(id) FROM messages), 0), (SELECT gone FROM marks)) + 1, ?, ?, ?, ?, ?, ?)

-- name: insert_after
INSERT INTO messages (id, queue, rank, due, since, task_id, envelope) VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: insert_ready
INSERT INTO ready (queue, rank, position, id) VALUES (?, ?, ?, ?)

-- name: insert_delayed
INSERT INTO delayed (queue, due, id) VALUES (?, ?, ?)

-- name: unfiled
SELECT id FROM messages WHERE id > (SELECT filed FROM marks) ORDER BY id DESC LIMIT 1

-- name: file_ready
INSERT INTO ready (queue, rank, position, id)
SELECT queue, rank, id, id FROM messages WHERE id > (SELECT filed FROM marks) AND due IS NULL

-- name: file_delayed
INSERT INTO delayed (queue, due, id)
SELECT queue, due, id FROM messages WHERE id > (SELECT filed FROM marks) AND due IS NOT NULL

-- name: filed
UPDATE marks SET filed = ?

-- name: any_due
SELECT 1 FROM delayed WHERE queue = ? AND due <= ? LIMIT 1

-- name: any_ready
SELECT 1 FROM ready WHERE queue = ? LIMIT 1

-- name: promote
INSERT INTO ready (queue, rank, position, id)
SELECT m.queue, m.rank, coalesce(m.position, m.id), m.id
FROM (SELECT id FROM delayed WHERE queue = ? AND due <= ? ORDER BY due, id LIMIT ?) AS d
CROSS JOIN messages AS m ON m.id = d.id

-- name: promoted
DELETE FROM delayed
WHERE queue = ? AND (due, id) IN (
    SELECT due, id FROM delayed WHERE queue = ? AND due <= ? ORDER BY due, id LIMIT ?
)

-- name: front
SELECT r.rank, r.position, r.id, m.envelope, m.deliveries, m.interrupted,
       EXISTS (SELECT 1 FROM revocations AS v WHERE v.task_id = m.task_id AND v.until > ?)
FROM ready AS r CROSS JOIN messages AS m ON m.id = r.id
WHERE r.queue = ?
ORDER BY r.rank, r.position, r.id
LIMIT ?

-- name: lease
INSERT INTO leased (id, fence, started, since)
SELECT id, ?, 0, ? FROM ready WHERE queue = ? AND (rank, position, id) <= (?, ?, ?)

-- name: leave_ready
DELETE FROM ready WHERE queue = ? AND (rank, position, id) <= (?, ?, ?)

-- name: register
INSERT INTO consumers (name, queues, deadline) VALUES (?, ?, ?)

-- name: registered
SELECT 1 FROM consumers WHERE id = ?

-- name: renew
UPDATE consumers SET deadline = ? WHERE id = ?

-- name: late
SELECT id FROM consumers WHERE deadline <= ?

-- name: unregister
DELETE FROM consumers WHERE id = ?

-- name: interrupt
UPDATE messages SET deliveries = deliveries + 1, interrupted = 1, since = ?
WHERE id IN (SELECT id FROM leased WHERE fence BETWEEN ? AND ? AND started)

-- name: give_back
INSERT INTO ready (queue, rank, position, id)
SELECT queue, rank, coalesce(position, id), id FROM messages
WHERE id IN (SELECT id FROM leased WHERE fence BETWEEN ? AND ?)

-- name: drop_leases
DELETE FROM leased WHERE fence BETWEEN ? AND ?

-- name: queues_of
SELECT DISTINCT queue FROM messages WHERE id IN (SELECT id FROM leased WHERE fence BETWEEN ? AND ?)

-- name: start
UPDATE leased SET started = 1 WHERE id BETWEEN ? AND ? AND fence = ?

-- name: any_revocation
SELECT 1 FROM revocations LIMIT 1

-- name: revoked_among
SELECT m.id FROM json_each(?) AS wanted CROSS JOIN messages AS m ON m.id = wanted.value
WHERE EXISTS (SELECT 1 FROM revocations AS v WHERE v.task_id = m.task_id AND v.until > ?)

-- name: count_leases
SELECT count(*) FROM leased WHERE id BETWEEN ? AND ? AND fence = ?

-- name: leases
SELECT l.id, l.fence FROM json_each(?) AS wanted CROSS JOIN leased AS l ON l.id = wanted.value

-- name: end_leases
DELETE FROM leased WHERE id BETWEEN ? AND ? AND fence = ?

-- name: end_lease
DELETE FROM leased WHERE id = ? AND fence = ? RETURNING started

-- name: delete_messages
DELETE FROM messages WHERE id BETWEEN ? AND ?

-- name: back_in_place
INSERT INTO ready (queue, rank, position, id)
SELECT queue, rank, coalesce(position, id), id FROM messages WHERE id = ?

-- name: requeue
UPDATE messages
SET position = ?, due = ?, since = ?, deliveries = deliveries + ?,
    interrupted = CASE WHEN ? THEN 0 ELSE interrupted END
WHERE id = ?
RETURNING queue, rank

-- name: next_position
UPDATE marks SET gone = max(gone, coalesce((SELECT max(id) FROM messages), 0)) + 1 RETURNING gone

-- name: bury
INSERT INTO dead (id, since, reason) VALUES (?, ?, ?)

-- name: count_execution
UPDATE messages
SET deliveries = deliveries + ?, interrupted = CASE WHEN ? THEN 0 ELSE interrupted END, since = ? WHERE id = ?

-- name: next_due
SELECT due FROM delayed WHERE queue = ? ORDER BY due LIMIT 1

-- name: purge_messages
DELETE FROM messages
WHERE id IN (SELECT id FROM ready WHERE queue = ? UNION ALL SELECT id FROM delayed WHERE queue = ?)

-- name: purge_ready
DELETE FROM ready WHERE queue = ?

-- name: purge_delayed
DELETE FROM delayed WHERE queue = ?

-- name: remove
DELETE FROM messages
WHERE id IN (SELECT value FROM json_each(?)) AND id NOT IN (SELECT id FROM leased)
RETURNING id, queue, rank, coalesce(position, id), due, task_id

-- name: remove_ready
DELETE FROM ready WHERE queue = ? AND rank = ? AND position = ? AND id = ?

-- name: remove_delayed
DELETE FROM delayed WHERE queue = ? AND due = ? AND id = ?

-- name: remove_dead
DELETE FROM dead WHERE id = ?

-- name: exhume
DELETE FROM dead WHERE id IN (SELECT value FROM json_each(:tags)) AND id NOT IN (
    -- Of a queue whose only listener is gone: nobody would get it.
    SELECT m.id FROM messages AS m JOIN bindings AS b ON b.queue = m.queue AND b.type = 'fleeting'
    WHERE m.id IN (SELECT value FROM json_each(:tags)) AND m.queue NOT IN (
        SELECT listened.value FROM consumers, json_each(consumers.queues) AS listened WHERE deadline > :now
    )
)
RETURNING id

-- name: replay
UPDATE messages SET position = ?, due = NULL, since = ?, deliveries = 0, interrupted = 0 WHERE id = ?
RETURNING queue, rank

-- name: revoke
INSERT INTO revocations (task_id, until) VALUES (?, ?) ON CONFLICT (task_id) DO UPDATE SET until = excluded.until

-- name: forget_revocations
DELETE FROM revocations WHERE until <= ?

-- name: too_many_revocations
SELECT count(*) > ? FROM revocations

-- name: limit_revocations
DELETE FROM revocations
WHERE task_id IN (SELECT task_id FROM revocations ORDER BY until DESC LIMIT -1 OFFSET ?)

-- name: revoked
SELECT task_id FROM revocations WHERE until > ? ORDER BY task_id

-- name: stats
SELECT q.name,
       (SELECT count(*) FROM ready WHERE queue = q.name)
           + (SELECT count(*) FROM delayed WHERE queue = q.name AND due <= :now),
       (SELECT count(*) FROM leased AS l CROSS JOIN messages AS m ON m.id = l.id WHERE m.queue = q.name),
       (SELECT count(*) FROM delayed WHERE queue = q.name AND due > :now),
       (SELECT count(*) FROM dead AS d CROSS JOIN messages AS m ON m.id = d.id WHERE m.queue = q.name),
       (SELECT count(*) FROM consumers AS c, json_each(c.queues) AS listened WHERE listened.value = q.name),
       (SELECT min(due) FROM delayed WHERE queue = q.name AND due <= :now),
       (SELECT count(*) FROM parked WHERE queue = q.name),
       EXISTS (SELECT 1 FROM paused WHERE queue = q.name)
FROM (SELECT name FROM queues WHERE :queues IS NULL UNION SELECT value FROM json_each(:queues)) AS q
ORDER BY q.name

-- name: oldest
SELECT min(max(m.since, coalesce(m.due, 0)))
FROM (WITH RECURSIVE ranks (rank) AS (VALUES (-1) UNION ALL SELECT rank + 1 FROM ranks WHERE rank < 9) SELECT rank FROM ranks) AS k
CROSS JOIN messages AS m ON m.id = (
    SELECT r.id FROM ready AS r WHERE r.queue = ? AND r.rank = k.rank ORDER BY r.position, r.id LIMIT 1
)

-- name: ready_entries
SELECT m.id, m.queue, 'ready', m.task_id, m.envelope, max(m.since, coalesce(m.due, 0)), m.due, m.deliveries, '', ''
FROM (
    SELECT id FROM ready WHERE :queues IS NULL OR queue IN (SELECT value FROM json_each(:queues))
    UNION ALL
    SELECT id FROM delayed WHERE due <= :now AND (:queues IS NULL OR queue IN (SELECT value FROM json_each(:queues)))
) AS r CROSS JOIN messages AS m ON m.id = r.id
ORDER BY m.rank, coalesce(m.position, m.id)
LIMIT :limit

-- name: delayed_entries
SELECT m.id, m.queue, 'delayed', m.task_id, m.envelope, m.since, m.due, m.deliveries, '', ''
FROM (
    SELECT id FROM delayed WHERE due > :now AND (:queues IS NULL OR queue IN (SELECT value FROM json_each(:queues)))
    ORDER BY due, id LIMIT :limit
) AS d CROSS JOIN messages AS m ON m.id = d.id
ORDER BY m.due, m.id

-- name: parked_entries
SELECT m.id, m.queue, 'parked', m.task_id, m.envelope, m.since, m.due, m.deliveries, p.key, ''
FROM parked AS p CROSS JOIN messages AS m ON m.id = p.id
WHERE :now AND (:queues IS NULL OR m.queue IN (SELECT value FROM json_each(:queues)))
ORDER BY p.rank, p.position, p.id
LIMIT :limit

-- name: leased_entries
SELECT m.id, m.queue, 'leased', m.task_id, m.envelope, l.since, m.due, m.deliveries, '', coalesce(c.name, '')
FROM leased AS l CROSS JOIN messages AS m ON m.id = l.id LEFT JOIN consumers AS c ON c.id = l.fence >> 32
WHERE :now AND (:queues IS NULL OR m.queue IN (SELECT value FROM json_each(:queues)))
ORDER BY l.since, l.id
LIMIT :limit

-- name: dead_entries
SELECT m.id, m.queue, 'dead', m.task_id, m.envelope, d.since, m.due, m.deliveries, d.reason, ''
FROM dead AS d CROSS JOIN messages AS m ON m.id = d.id
WHERE :now AND (:queues IS NULL OR m.queue IN (SELECT value FROM json_each(:queues)))
ORDER BY d.since, d.id
LIMIT :limit
