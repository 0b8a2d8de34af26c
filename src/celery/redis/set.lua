-- Store plainly. KEYS: the key; the answer's key. ARGV: the prefix, the value, its ttl (ms), "add" for only if absent.
-- Returns whether it was stored. Of an `add` that won, that answer is kept for *ANSWER_KEPT* ms: the caller whose
-- connection broke asks again under the same key.

if ARGV[4] == "add" then
  if redis.call("EXISTS", KEYS[2]) == 1 then
    return 1
  end
  if not keep_new(KEYS[1], ARGV[2], ARGV[3]) then
    return 0
  end
  redis.call("SET", KEYS[2], "1", "PX", ANSWER_KEPT)
else
  keep(KEYS[1], ARGV[2], ARGV[3])
end
redis.call("DEL", companion_of(ARGV[1], KEYS[1]))
redis.call("PUBLISH", KEYS[1], ARGV[2])
return 1
