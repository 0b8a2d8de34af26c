-- Deleting what is ready, delayed or parked in a queue. Needs permits.lua and uniques.lua.

local function free_uniques(queue, now)
    -- The unique keys of tasks that no consumer has.
    local keys, running = redis.call('ZRANGE', P .. 'celeriac.uniques.' .. queue, 0, -1), {}
    if #keys == 0 then return end
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

local function empty(queue, now)
    local parked, lines = P .. 'celeriac.parked.' .. queue, {}
    for _, step in ipairs(STEPS) do redis.call('DEL', ready_key(queue, step)) end
    for _, facts in ipairs(redis.call('HVALS', parked)) do lines[string.match(facts, '^%d+ (.*)$')] = true end
    for key in pairs(lines) do
        redis.call('DEL', line_key(queue, key))
        redis.call('SREM', waiting_key(key), queue)
    end
    redis.call('DEL', P .. 'celeriac.due.' .. queue, parked, P .. 'celeriac.later.' .. queue,
        P .. 'celeriac.returned.' .. queue, P .. 'celeriac.gates.' .. queue)
    free_uniques(queue, now)
end
