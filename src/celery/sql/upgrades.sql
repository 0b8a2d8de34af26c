-- What brings a file of an earlier schema to the next one.

-- name: from_1
ALTER TABLE joins ADD COLUMN last TEXT
