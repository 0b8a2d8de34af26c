-- Record parts of joins. KEYS: the answer's key. ARGV: the prefix; of each part its group, index, value and size.
-- Returns a text with a 1 or 0 for each: whether it completed its join. That is true once, so an answer with a 1 is kept
-- for *ANSWER_KEPT* ms: the caller whose connection broke asks again under the same key.

local given = redis.call("GET", KEYS[1])
if given then
  return given
end
local completed, any = {}, false
for at = 2, #ARGV, 4 do
  local completes = arrive(ARGV[1], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  completed[#completed + 1] = completes and "1" or "0"
  any = any or completes
end
local answer = table.concat(completed)
if any then
  redis.call("SET", KEYS[1], answer, "PX", ANSWER_KEPT)
end
return answer
