-- Delete results and joins. KEYS: the results' keys or the joins' groups. ARGV: the prefix. Returns how many there were.

local found = 0
for _, key in ipairs(KEYS) do
  local join = join_of(ARGV[1], key)
  found = found + math.min(1, redis.call("DEL", key, join))
  redis.call("DEL", companion_of(ARGV[1], key))
end
return found
