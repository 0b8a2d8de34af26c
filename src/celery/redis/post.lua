-- Put a payload into the boxes that are bound. KEYS: kombu's bindings of the exchange.
-- ARGV: what stands before every key, what stands between the parts of a binding, the routing key, the usual binding
-- for that key, ms to live, the payload. Returns how many boxes there were.
local prefix, sep, life = ARGV[1], ARGV[2], ARGV[5]
local beginning = ARGV[3] .. sep
local bound = {}
if redis.call('SISMEMBER', KEYS[1], ARGV[4]) == 1 then
    bound[1] = ARGV[4]
else
    for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
        if string.sub(member, 1, #beginning) == beginning then bound[#bound + 1] = member end
    end
end
for _, member in ipairs(bound) do
    -- routing key, pattern, queue
    local rest = string.sub(member, #beginning + 1)
    local _, at = string.find(rest, sep, 1, true)
    if at then
        local list = prefix .. string.sub(rest, at + 1)
        -- First what takes no memory, or a server that is full refuses the script. Boxes are short, and end by themselves.
        redis.call('PERSIST', list)
        redis.call('LPUSH', list, ARGV[6])
        redis.call('PEXPIRE', list, life)
    end
end
return #bound
