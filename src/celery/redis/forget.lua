-- Delete results and joins. KEYS: the results' keys or the joins' groups. ARGV: the prefix. Returns how many there were.

local found = 0
for _, key in ipairs(KEYS) do
  if string.sub(key, -1) == "." then
    found = found + math.min(1, redis.call("DEL", key .. "j", key .. "d", key .. "s"))
    redis.call("DEL", key .. "c", key .. "t")
  else
    found = found + redis.call("DEL", key)
    redis.call("DEL", companion_of(ARGV[1], key))
  end
end
return found
