-- Delete what is ready, delayed or parked. ARGV: now, the queue. Returns how many there were.
local now, queue = read_now(ARGV[1]), ARGV[2]
local due, parked = P .. 'celeriac.due.' .. queue, P .. 'celeriac.parked.' .. queue
local count = redis.call('ZCARD', due) + redis.call('HLEN', parked)
for _, step in ipairs(STEPS) do
    -- One that is somebody else's stays, and says so.
    local length = redis.pcall('LLEN', ready_key(queue, step))
    if type(length) == 'table' then
        return redis.error_reply('WRONGTYPE the key ' .. ready_key(queue, step) .. ' holds no list of messages')
    end
    count = count + length
end
for _, step in ipairs(STEPS) do redis.call('DEL', ready_key(queue, step)) end
local lines = {}
for _, facts in ipairs(redis.call('HVALS', parked)) do lines[string.match(facts, '^%d+ (.*)$')] = true end
for key in pairs(lines) do
    redis.call('DEL', line_key(queue, key))
    redis.call('SREM', P .. 'celeriac.waiting.' .. key, queue)
end
redis.call('DEL', due, parked, P .. 'celeriac.later.' .. queue, P .. 'celeriac.returned.' .. queue,
    P .. 'celeriac.gates.' .. queue)
local uniques = P .. 'celeriac.uniques.' .. queue
local keys = redis.call('ZRANGE', uniques, 0, -1)
if #keys > 0 then
    local running = {}
    for _, id in ipairs(redis.call('ZRANGE', P .. 'celeriac.consumers', 0, -1)) do
        for _, slip in ipairs(redis.call('HVALS', P .. 'celeriac.held.' .. id .. '.' .. queue)) do
            local _, _, _, _, envelope = read_slip(slip)
            running[task_of(envelope)] = true
        end
    end
    for _, key in ipairs(keys) do
        local holder = holder_of(key, now)
        if holder and not running[holder] then free_unique(queue, key, holder, now) end
    end
end
return count
