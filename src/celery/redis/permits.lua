-- Permits, what is parked for want of one, and whom a free one goes to. Needs slips.lua. A permit, as the worker names
-- it: {key, slots, interval in ms, burst}; `wire/message.py` says what it means.
--   celeriac.slots.<key>       hash: who has one ("<consumer>-<number>", or "g" and the SHA-1 of the envelope of a ready
--                              message that was woken) to 1. Of rates only those that were woken are there
--   celeriac.permits.<id>      hash: numbers of what a consumer has started to the keys of its slots, one a line
--   celeriac.granted           hash: SHA-1 of a woken envelope to the key; celeriac.grants: sorted set, until when
--   celeriac.parked.<queue>    hash: names of parked messages to "<slots> <key>"; their slips are in celeriac.later.<queue>
--   celeriac.line.<queue>\n<key>  sorted set: those names in their order
--   celeriac.waiting.<key>     set: the queues in which messages wait for a slot
--   celeriac.rate.<key>        string: ms before which none may start
--   celeriac.gates.<queue>     sorted set: "<interval> <burst> <key>" of rates by when the next that waits is woken
local GRANTED = 30000
local PAUSED, GRANTS, GRANTED_TO = P .. 'celeriac.paused', P .. 'celeriac.grants', P .. 'celeriac.granted'
local woken = 0  -- messages that this script made ready because there was a permit for them

local function slots_key(key) return P .. 'celeriac.slots.' .. key end
local function line_key(queue, key) return P .. 'celeriac.line.' .. queue .. '\n' .. key end

local function earliest(interval, burst, key, now)
    -- When one may start that has not waited, in ms.
    local following = tonumber(redis.call('GET', P .. 'celeriac.rate.' .. key) or 0)
    return math.max(following, now - (burst - 1) * interval)
end

local function available(interval, burst, key, now)
    local ahead = now - earliest(interval, burst, key, now)
    return ahead < 0 and 0 or math.min(burst, 1 + math.floor(ahead / interval))
end

local function precisely(ms) return string.format('%.3f', ms) end

local function set_gate(queue, interval, burst, key, due)
    redis.call('ZADD', P .. 'celeriac.gates.' .. queue, precisely(due), precisely(interval) .. ' ' .. burst .. ' ' .. key)
end

local function grant(key, digest, now)
    redis.call('HSET', slots_key(key), 'g' .. digest, 1)
    redis.call('HSET', GRANTED_TO, digest, key)
    redis.call('ZADD', GRANTS, now + GRANTED, digest)
end

local function ungrant(digest)
    -- What was kept for a message is free; its key, or false.
    local key = redis.call('HGET', GRANTED_TO, digest)
    if key then
        redis.call('HDEL', slots_key(key), 'g' .. digest)
        redis.call('HDEL', GRANTED_TO, digest)
        redis.call('ZREM', GRANTS, digest)
    end
    return key
end

local function unpark(queue, key, name)
    -- Take a parked message out; its slip.
    local later = P .. 'celeriac.later.' .. queue
    local slip = redis.call('HGET', later, name)
    redis.call('HDEL', later, name)
    redis.call('HDEL', P .. 'celeriac.parked.' .. queue, name)
    redis.call('ZREM', line_key(queue, key), name)
    if redis.call('EXISTS', line_key(queue, key)) == 0 then
        redis.call('SREM', P .. 'celeriac.waiting.' .. key, queue)
    end
    return slip
end

local function make_woken(queue, key, name, now)
    local slip = unpark(queue, key, name)
    if slip then
        local step, deliveries, interrupted, _, envelope = read_slip(slip)
        grant(key, redis.sha1hex(envelope), now)
        make_ready('RPUSH', queue, step, deliveries, interrupted, now, envelope)
        woken = woken + 1
    end
end

local function wake_one(key, now)
    -- Whether a free slot went to the one that has waited longest, in whatever queue that is not paused.
    local first, place, home
    for _, queue in ipairs(redis.call('SMEMBERS', P .. 'celeriac.waiting.' .. key)) do
        if redis.call('SISMEMBER', PAUSED, queue) == 0 then
            local head = redis.call('ZRANGE', line_key(queue, key), 0, 0, 'WITHSCORES')
            if head[1] and (not place or tonumber(head[2]) < place) then
                first, place, home = head[1], tonumber(head[2]), queue
            end
        end
    end
    if not first then return false end
    local slots = tonumber(string.match(redis.call('HGET', P .. 'celeriac.parked.' .. home, first) or '', '^%d+') or 0)
    if redis.call('HLEN', slots_key(key)) >= slots then return false end
    make_woken(home, key, first, now)
    return true
end

local function wake(key, now)
    if redis.call('EXISTS', P .. 'celeriac.waiting.' .. key) == 0 then return end
    while wake_one(key, now) do end
end

local function lapse(now)
    -- Take back what was kept for messages that did not come for it; how many.
    local late = redis.call('ZRANGEBYSCORE', GRANTS, '-inf', now, 'LIMIT', 0, 1000)
    for _, digest in ipairs(late) do
        local key = ungrant(digest)
        if key then wake(key, now) else redis.call('ZREM', GRANTS, digest) end
    end
    return #late
end

local function free(id, numbers, now)
    -- The slots of what a consumer has started go to others. At most 1,000 numbers.
    local mine = P .. 'celeriac.permits.' .. id
    if #numbers == 0 or redis.call('EXISTS', mine) == 0 then return end
    local by_key, had = {}, {}
    for i, keys in ipairs(redis.call('HMGET', mine, unpack(numbers))) do
        if keys then
            had[#had + 1] = numbers[i]
            for key in string.gmatch(keys, '[^\n]+') do
                by_key[key] = by_key[key] or {}
                table.insert(by_key[key], id .. '-' .. numbers[i])
            end
        end
    end
    if #had == 0 then return end
    redis.call('HDEL', mine, unpack(had))
    for key, holders in pairs(by_key) do redis.call('HDEL', slots_key(key), unpack(holders)) end
    for key in pairs(by_key) do wake(key, now) end
end

local function free_granted(envelope, now)
    -- The message will not come for what was kept for it.
    local key = ungrant(redis.sha1hex(envelope))
    if key then wake(key, now) end
end

local function waits(queue, key) return redis.call('EXISTS', line_key(queue, key)) == 1 end

local function may(permit, queue, is_granted, now, more)
    -- Whether there is a permit. *more*: how many of the key this script has given and not written yet.
    local key, slots, interval, burst = permit[1], permit[2], permit[3], permit[4]
    if slots > 0 then return is_granted or redis.call('HLEN', slots_key(key)) + more < slots end
    if interval > 0 and (is_granted or not waits(queue, key)) then return available(interval, burst, key, now) > 0 end
    return false
end

local function pass_gate(permit, queue, now)
    -- One has started: the next may after it.
    local key, interval, burst = permit[1], permit[3], permit[4]
    local following = earliest(interval, burst, key, now) + interval
    local kept = math.max(1, math.ceil(following - now)) + burst * math.ceil(interval)
    redis.call('SET', P .. 'celeriac.rate.' .. key, precisely(following), 'PX', kept)
    if waits(queue, key) then set_gate(queue, interval, burst, key, following) end
end

local function park(queue, step, deliveries, interrupted, now, envelope, permit)
    -- Keep it aside until there is a permit: now there is none.
    local key, slots, interval, burst = permit[1], permit[2], permit[3], permit[4]
    free_granted(envelope, now)
    local slip = write_slip(step, deliveries, interrupted, now, envelope)
    local name = keep_later(queue, task_of(envelope), envelope, slip)
    redis.call('HSET', P .. 'celeriac.parked.' .. queue, name, slots .. ' ' .. key)
    local place = 1
    for i, known in ipairs(STEPS) do if known == step then place = i end end
    local order = place * 1e12 + redis.call('INCR', P .. 'celeriac.order') % 1e12
    redis.call('ZADD', line_key(queue, key), order, name)
    if slots > 0 then
        redis.call('SADD', P .. 'celeriac.waiting.' .. key, queue)
    elseif interval > 0 then
        set_gate(queue, interval, burst, key, earliest(interval, burst, key, now))
    end
end

local function open_gates(queue, now)
    -- Wake those whose rate lets them start now.
    local gates = P .. 'celeriac.gates.' .. queue
    for _, gate in ipairs(redis.call('ZRANGEBYSCORE', gates, '-inf', now, 'LIMIT', 0, 100)) do
        local interval, burst, key = string.match(gate, '^(%S+) (%S+) (.*)$')
        interval, burst = tonumber(interval), tonumber(burst)
        local count = available(interval, burst, key, now)
        local heads = count > 0 and redis.call('ZRANGE', line_key(queue, key), 0, count - 1) or {}
        for i = #heads, 1, -1 do make_woken(queue, key, heads[i], now) end
        if not waits(queue, key) then
            redis.call('ZREM', gates, gate)
        else
            redis.call('ZADD', gates, precisely(count > 0 and now + GRANTED or earliest(interval, burst, key, now)), gate)
        end
    end
end

local function leave(id, now)
    -- Give back all that consumer `id` held, the oldest in front, and forget it; how many there were.
    local me, started = P .. 'celeriac.consumer.' .. id, P .. 'celeriac.started.' .. id
    local queues = redis.call('HGET', me, 'queues')
    local marked = {}
    for _, number in ipairs(redis.call('SMEMBERS', started)) do marked[number] = true end
    redis.call('ZREM', P .. 'celeriac.consumers', id)
    redis.call('DEL', me, started)
    local count = 0
    for _, queue in ipairs(queues and cjson.decode(queues) or {}) do
        local held = P .. 'celeriac.held.' .. id .. '.' .. queue
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
        count = count + #order
    end
    local limited = redis.call('HKEYS', P .. 'celeriac.permits.' .. id)
    for from = 1, #limited, 1000 do free(id, {unpack(limited, from, math.min(from + 999, #limited))}, now) end
    return count
end
