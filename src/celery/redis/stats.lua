-- What is where. ARGV: now, then queues, or none for all that are known.
-- A row for each: name, ready, leased, delayed, dead, consumers, when the first due one was due or -1, then the envelope
-- at the front of each ready list, parked, whether it is paused.
local now = read_now(ARGV[1])
local names = {unpack(ARGV, 2)}
if #names == 0 then names = redis.call('SMEMBERS', P .. 'celeriac.queues') end
local consumers = {}
for _, id in ipairs(redis.call('ZRANGE', P .. 'celeriac.consumers', 0, -1)) do
    local queues = redis.call('HGET', P .. 'celeriac.consumer.' .. id, 'queues')
    consumers[#consumers + 1] = {id, queues and cjson.decode(queues) or {}}
end
local rows = {}
for _, queue in ipairs(names) do
    local ready, fronts = 0, {}
    for _, step in ipairs(STEPS) do
        local length = redis.pcall('LLEN', ready_key(queue, step))
        if type(length) == 'number' and length > 0 then
            ready = ready + length
            fronts[#fronts + 1] = redis.call('LINDEX', ready_key(queue, step), -1)
        end
    end
    local due = P .. 'celeriac.due.' .. queue
    ready = ready + redis.call('ZCOUNT', due, '-inf', now)
    local leased, listening = 0, 0
    for _, consumer in ipairs(consumers) do
        leased = leased + redis.call('HLEN', P .. 'celeriac.held.' .. consumer[1] .. '.' .. queue)
        for _, name in ipairs(consumer[2]) do
            if name == queue then listening = listening + 1 end
        end
    end
    local first = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)
    rows[#rows + 1] = {
        queue, ready, leased, redis.call('ZCOUNT', due, '(' .. now, '+inf'), redis.call('ZCARD', P .. 'celeriac.dead.' .. queue),
        listening, first[2] and math.floor(first[2]) or -1, fronts,
        redis.call('HLEN', P .. 'celeriac.parked.' .. queue), redis.call('SISMEMBER', P .. 'celeriac.paused', queue),
    }
end
return rows
