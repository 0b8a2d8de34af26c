-- Publish to one ready list. KEYS: the mark of this connection, the list. ARGV: number of this request, envelopes.
-- The mark tells whether a request whose answer was lost was carried out.
local last = redis.call('SET', KEYS[1], ARGV[1], 'EX', 60, 'GET')
if last and tonumber(last) >= tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], last, 'EX', 60)
    return 0
end
for from = 2, #ARGV, 1000 do
    local pushed = redis.pcall('LPUSH', KEYS[2], unpack(ARGV, from, math.min(from + 999, #ARGV)))
    if type(pushed) == 'table' and pushed.err then
        if last then redis.call('SET', KEYS[1], last, 'EX', 60) else redis.call('DEL', KEYS[1]) end
        -- The key is what its owner looks for.
        pushed.err = string.gsub(pushed.err, '^WRONGTYPE.*', 'WRONGTYPE the key ' .. KEYS[2] .. ' holds no list of messages')
        return pushed
    end
end
return 1
