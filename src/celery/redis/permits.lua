-- Permits, what is parked for want of one, and whom a free one goes to. Needs slips.lua. A permit, as the worker names
-- it: {key, slots, interval in ms, burst}; `wire/message.py` says what it means.
--   celeriac.taken.<key>       string: how many slots are taken, by what is started or was woken (a rate: only by the latter)
--   celeriac.permits.<id>      hash: keys to how many of their slots a consumer has. What it has marked as started has
--                              those that it was started with, which the consumer remembers
--   celeriac.granted           hash: SHA-1 of a woken envelope to the key; celeriac.grants: sorted set, until when
--   celeriac.parked.<queue>    hash: names of parked messages to "<slots> <key>"; their slips are in celeriac.later.<queue>
--   celeriac.line.<queue>\n<key>  sorted set: those names in their order
--   celeriac.waiting.<key>     set: the queues in which messages wait for a slot
--   celeriac.rate.<key>        string: ms before which none may start
--   celeriac.gates.<queue>     sorted set: "<interval> <burst> <key>" of rates by when the next that waits is woken
-- Slots are counted here, in `taken`, until `write_slots`: most batches free as many of a key as they take, and write nothing.
local GRANTED = 30000
local PAUSED, GRANTS, GRANTED_TO = P .. 'celeriac.paused', P .. 'celeriac.grants', P .. 'celeriac.granted'
local woken = 0  -- messages that this script made ready because there was a permit for them
local stored, taken, mine = {}, {}, {}  -- by key: slots as the server knows them, as they are; what the consumer took of it

local function taken_key(key) return P .. 'celeriac.taken.' .. key end
local function waiting_key(key) return P .. 'celeriac.waiting.' .. key end
local function line_key(queue, key) return P .. 'celeriac.line.' .. queue .. '\n' .. key end

local function in_portions(list, call)
    for from = 1, #list, 1000 do call(unpack(list, from, math.min(from + 999, #list))) end
end

local function read_slots(keys)
    -- Those of several keys at once, which are not counted here yet.
    in_portions(keys, function(...)
        local some, names = {...}, {}
        for i, key in ipairs(some) do names[i] = taken_key(key) end
        for i, count in ipairs(redis.call('MGET', unpack(names))) do
            count = tonumber(count or 0)
            stored[some[i]], taken[some[i]] = count, count
        end
    end)
end

local function taken_of(key)
    if not taken[key] then read_slots({key}) end
    return taken[key]
end

local function take_slots(key, count) taken[key] = taken_of(key) + count end

local function take_mine(key, count)
    take_slots(key, count)
    mine[key] = (mine[key] or 0) + count
end

local function write_slots(id)
    -- Of consumer `id` too, where it took or freed some.
    local counts, gone = {}, {}
    for key, count in pairs(taken) do
        if count ~= stored[key] and count > 0 then
            counts[#counts + 1], counts[#counts + 2] = taken_key(key), count
        elseif count ~= stored[key] then
            gone[#gone + 1] = taken_key(key)
        end
        stored[key] = count
    end
    in_portions(gone, function(...) redis.call('DEL', ...) end)
    in_portions(counts, function(...) redis.call('MSET', ...) end)
    local keys, fields, none = {}, {}, {}
    local own = P .. 'celeriac.permits.' .. (id or '')
    for key, change in pairs(mine) do if change ~= 0 then keys[#keys + 1] = key end end
    in_portions(keys, function(...)
        local some = {...}
        for i, had in ipairs(redis.call('HMGET', own, ...)) do
            local key = some[i]
            local has = tonumber(had or 0) + mine[key]
            if has > 0 then fields[#fields + 1], fields[#fields + 2] = key, has else none[#none + 1] = key end
        end
    end)
    in_portions(none, function(...) redis.call('HDEL', own, ...) end)
    in_portions(fields, function(...) redis.call('HSET', own, ...) end)
    mine = {}
end

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
    take_slots(key, 1)
    redis.call('HSET', GRANTED_TO, digest, key)
    redis.call('ZADD', GRANTS, now + GRANTED, digest)
end

local function ungrant(digest)
    -- What was kept for a message is free; its key, or false.
    local key = redis.call('HGET', GRANTED_TO, digest)
    if key then
        take_slots(key, -1)
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
        redis.call('SREM', waiting_key(key), queue)
    end
    return slip
end

local function take_woken(queue, key, name, now)
    -- Take a parked message out for which there is a permit, which is kept for it; what `push_woken` needs.
    local slip = unpark(queue, key, name)
    if not slip then return end
    local step, deliveries, interrupted, _, envelope = read_slip(slip)
    grant(key, redis.sha1hex(envelope), now)
    return {queue, step, deliveries, interrupted, envelope}
end

local function push_woken(ones, now)
    -- To the front of their queues, the first of them foremost.
    for i = #ones, 1, -1 do
        local queue, step, deliveries, interrupted, envelope = unpack(ones[i])
        make_ready('RPUSH', queue, step, deliveries, interrupted, now, envelope)
    end
    woken = woken + #ones
end

local function next_in_line(key)
    -- The one that has waited longest for a slot, in whatever queue that is not paused: its queue, its name.
    local first, place, home
    for _, queue in ipairs(redis.call('SMEMBERS', waiting_key(key))) do
        if redis.call('SISMEMBER', PAUSED, queue) == 0 then
            local head = redis.call('ZRANGE', line_key(queue, key), 0, 0, 'WITHSCORES')
            if head[1] and (not place or tonumber(head[2]) < place) then
                first, place, home = head[1], tonumber(head[2]), queue
            end
        end
    end
    return home, first
end

local function wake(key, now)
    -- Give the free slots to those that have waited longest.
    if redis.call('EXISTS', waiting_key(key)) == 0 then return end
    local ones = {}
    while true do
        local queue, name = next_in_line(key)
        local facts = queue and redis.call('HGET', P .. 'celeriac.parked.' .. queue, name) or ''
        local slots = tonumber(string.match(facts, '^%d+') or 0)
        if not queue or taken_of(key) >= slots then break end
        ones[#ones + 1] = take_woken(queue, key, name, now)
    end
    push_woken(ones, now)
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

local function wake_all(keys, now)
    -- *keys*: a set of those of which slots have become free.
    local lines = {}
    for key in pairs(keys) do lines[#lines + 1] = waiting_key(key) end
    local some = 0
    in_portions(lines, function(...) some = some + redis.call('EXISTS', ...) end)
    if some > 0 then
        for key in pairs(keys) do wake(key, now) end
    end
end

local function free(keys, count, now)
    -- Slots of what the consumer had started go to others, *count* of each key.
    for _, key in ipairs(keys) do take_mine(key, -count) end
    for _, key in ipairs(keys) do wake(key, now) end
end

local function free_granted(envelope, now)
    -- The message will not come for what was kept for it.
    local key = ungrant(redis.sha1hex(envelope))
    if key then wake(key, now) end
end

local function waits(queue, key) return redis.call('EXISTS', line_key(queue, key)) == 1 end

local function may(permit, queue, is_granted, now)
    -- Whether there is a permit.
    local key, slots, interval, burst = permit[1], permit[2], permit[3], permit[4]
    if slots > 0 then return is_granted or taken_of(key) < slots end
    if interval > 0 and (is_granted or not waits(queue, key)) then return available(interval, burst, key, now) > 0 end
    return false
end

local function lacking(permits, queue, granted, now)
    -- The first that there is not now, or nil. *granted*: the key of the one that is kept for this message.
    for _, permit in ipairs(permits) do
        if not may(permit, queue, granted == permit[1], now) then return permit end
    end
end

local function enough_for(permits, queue, most, now)
    -- How many may start, of *most* for whom none is kept.
    for _, permit in ipairs(permits) do
        local key, slots, interval, burst = permit[1], permit[2], permit[3], permit[4]
        if slots > 0 then
            most = math.min(most, slots - taken_of(key))
        elseif interval > 0 and not waits(queue, key) then
            most = math.min(most, available(interval, burst, key, now))
        else
            return 0
        end
    end
    return math.max(0, most)
end

local function pass_gate(permit, queue, count, now)
    -- So many have started: the next may after them.
    local key, interval, burst = permit[1], permit[3], permit[4]
    local following = earliest(interval, burst, key, now) + count * interval
    local kept = math.max(1, math.ceil(following - now)) + burst * math.ceil(interval)
    redis.call('SET', P .. 'celeriac.rate.' .. key, precisely(following), 'PX', kept)
    if waits(queue, key) then set_gate(queue, interval, burst, key, following) end
end

local function give(permits, queue, count, now)
    if count == 0 then return end
    for _, permit in ipairs(permits) do
        if permit[2] > 0 then take_mine(permit[1], count) else pass_gate(permit, queue, count, now) end
    end
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
        redis.call('SADD', waiting_key(key), queue)
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
        local ones = {}
        for _, name in ipairs(heads) do ones[#ones + 1] = take_woken(queue, key, name, now) end
        push_woken(ones, now)
        if not waits(queue, key) then
            redis.call('ZREM', gates, gate)
        else
            redis.call('ZADD', gates, precisely(count > 0 and now + GRANTED or earliest(interval, burst, key, now)), gate)
        end
    end
end
