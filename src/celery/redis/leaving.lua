-- A consumer goes, in order or because its lease has ended. Needs emptying.lua.
-- A queue that was its own (`own` in its hash: {{queue, exchange, binding}...}, JSON) goes with it, unless another
-- consumer listens to it: the same worker may have a former one. Dead messages of it stay, and are shown:
--   celeriac.unheard  set: the queues of listeners that are gone which have dead messages

local UNHEARD = P .. 'celeriac.unheard'

local function forget_queue(queue, now)
    empty(queue, now)
    redis.call('SREM', PAUSED, queue)
    if redis.call('EXISTS', P .. 'celeriac.dead.' .. queue) == 1 then
        redis.call('SADD', UNHEARD, queue)
    else
        redis.call('SREM', UNHEARD, queue)
        redis.call('SREM', P .. 'celeriac.queues', queue)
    end
end

local function forget_buried(now)
    -- Queues of listeners that are gone, of which the last dead message is gone too.
    for _, queue in ipairs(redis.call('SMEMBERS', UNHEARD)) do
        if redis.call('EXISTS', P .. 'celeriac.dead.' .. queue) == 0 then forget_queue(queue, now) end
    end
end

local function unbind(exchange, binding)
    local bindings, boxes = P .. '_kombu.binding.' .. exchange, P .. 'celeriac.boxes.' .. exchange
    redis.call('SREM', bindings, binding)
    redis.call('ZREM', boxes, binding)
    if redis.call('EXISTS', bindings) == 0 then redis.call('ZREM', P .. '_kombu.binding_deadlines', exchange) end
end

local function unheard_of(own)
    -- Of these, those that nobody listens to: by queue, what it is.
    local found = {}
    for _, facts in ipairs(own) do found[facts[1]] = facts end
    for _, id in ipairs(#own > 0 and redis.call('ZRANGE', P .. 'celeriac.consumers', 0, -1) or {}) do
        local queues = redis.call('HGET', P .. 'celeriac.consumer.' .. id, 'queues')
        for _, queue in ipairs(queues and cjson.decode(queues) or {}) do found[queue] = nil end
    end
    return found
end

local function give_back(queue, held, marked, now)
    -- What was held of a queue, the oldest in front; how many there were.
    local pairs_held = redis.call('HGETALL', held)
    redis.call('DEL', held)
    local order = {}
    for i = 1, #pairs_held, 2 do order[#order + 1] = {tonumber(pairs_held[i]), pairs_held[i], pairs_held[i + 1]} end
    table.sort(order, function(one, other) return one[1] > other[1] end)
    for _, entry in ipairs(order) do
        local step, deliveries, interrupted, _, envelope = read_slip(entry[3])
        if marked[entry[2]] then deliveries, interrupted = deliveries + 1, 1 end
        make_ready('RPUSH', queue, step, deliveries, interrupted, now, envelope)
    end
    return #order
end

local function leave(id, now)
    -- Give back all that consumer `id` held, and forget it; how many messages came back.
    local me, started = P .. 'celeriac.consumer.' .. id, P .. 'celeriac.started.' .. id
    local queues, own = unpack(redis.call('HMGET', me, 'queues', 'own'))
    local marked = {}
    for _, number in ipairs(redis.call('SMEMBERS', started)) do marked[number] = true end
    redis.call('ZREM', P .. 'celeriac.consumers', id)
    redis.call('DEL', me, started)
    local count, unheard = 0, unheard_of(own and cjson.decode(own) or {})
    for _, queue in ipairs(queues and cjson.decode(queues) or {}) do
        local held = P .. 'celeriac.held.' .. id .. '.' .. queue
        if unheard[queue] then redis.call('DEL', held) else count = count + give_back(queue, held, marked, now) end
    end
    local limited, freed = redis.call('HGETALL', P .. 'celeriac.permits.' .. id), {}
    redis.call('DEL', P .. 'celeriac.permits.' .. id)
    for i = 1, #limited, 2 do
        take_slots(limited[i], -tonumber(limited[i + 1]))
        freed[limited[i]] = true
    end
    for queue, facts in pairs(unheard) do
        forget_queue(queue, now)
        unbind(facts[2], facts[3])
    end
    wake_all(freed, now)
    return count
end
