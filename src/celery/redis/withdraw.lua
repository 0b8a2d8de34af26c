-- Make what is delayed or parked of some tasks ready, at the front. ARGV: now, the tasks.
-- Returns {queue, envelope, executions} of each.
local now, found = read_now(ARGV[1]), {}
for _, queue in ipairs(redis.call('SMEMBERS', P .. 'celeriac.queues')) do
    local later, parked = P .. 'celeriac.later.' .. queue, P .. 'celeriac.parked.' .. queue
    for i = 2, redis.call('EXISTS', later) == 1 and #ARGV or 1 do
        local name = ARGV[i]
        for _ = 1, 4 do  -- several messages of one task: see keep_later
            local slip = redis.call('HGET', later, name)
            if slip then
                local facts = redis.call('HGET', parked, name)
                if facts then
                    unpark(queue, string.match(facts, '^%d+ (.*)$'), name)
                else
                    redis.call('HDEL', later, name)
                    redis.call('ZREM', P .. 'celeriac.due.' .. queue, name)
                end
                local step, deliveries, interrupted, _, envelope = read_slip(slip)
                make_ready('RPUSH', queue, step, deliveries, interrupted, now, envelope)
                found[#found + 1] = {queue, envelope, deliveries}
            end
            name = name .. '+'
        end
    end
end
return found
