-- Put results. KEYS: theirs. ARGV: the prefix; of each result its value, state, writer and ttl (ms).
-- Returns a text with a 1 or 0 for each: whether it is stored.

local trouble = record_trouble(KEYS)
if trouble then
  return redis.error_reply("WRONGTYPE " .. trouble)
end
local stored = {}
for number, key in ipairs(KEYS) do
  local at = 4 * number - 2
  stored[number] = put_record(ARGV[1], key, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]) and "1" or "0"
end
return table.concat(stored)
