-- name: last
SELECT seq FROM sqlite_sequence WHERE name = 'bus'

-- name: oldest
SELECT until FROM bus ORDER BY id LIMIT 1

-- name: forget
DELETE FROM bus WHERE id < coalesce((SELECT id FROM bus WHERE until > ? ORDER BY id LIMIT 1), 9223372036854775807)

-- name: publish
INSERT INTO bus (topic, payload, until) VALUES (?, ?, ?)

-- name: read
SELECT id, topic, payload FROM bus
WHERE id > :after AND (
    topic IN (SELECT value FROM json_each(:names))
    OR EXISTS (SELECT 1 FROM json_each(:beginnings) WHERE substr(topic, 1, length(value)) = value)
)
ORDER BY id LIMIT :limit
