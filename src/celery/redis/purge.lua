-- Delete what is ready, delayed or parked. ARGV: now, the queue. Returns how many there were.
local now, queue = read_now(ARGV[1]), ARGV[2]
local count = redis.call('ZCARD', P .. 'celeriac.due.' .. queue) + redis.call('HLEN', P .. 'celeriac.parked.' .. queue)
for _, step in ipairs(STEPS) do
    -- One that is somebody else's stays, and says so.
    local length = redis.pcall('LLEN', ready_key(queue, step))
    if type(length) == 'table' then
        return redis.error_reply('WRONGTYPE the key ' .. ready_key(queue, step) .. ' holds no list of messages')
    end
    count = count + length
end
empty(queue, now)
return count
