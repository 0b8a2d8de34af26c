-- Move messages from the ready lists to a consumer, in one step.
-- KEYS: the ready list of every step of every queue, step by step, then the delayed set of every queue, then their gates.
-- ARGV: now, id, limit and how many of the first are to be marked as started if they are fresh ("limit begin"), first
-- number, how far each queue has come and its weight (msgpack: {{passed, weight}...}; '' for one queue or strictly in
-- order), what is wanted of what is parked (msgpack: {{key, count}...}; '' for nothing), large claims before this one of
-- which something is still held ("number since number since..."), the queues.
-- MOST_BYTES: with that much in hand it stops, and says that there is more by "due now".
-- Returns {ms until the next delayed message is due or -1, [queue, count]..., [place, deliveries, interrupted,
-- revoked]... for those that are not fresh, the envelopes, queues whose key holds something else, queues in which nothing
-- is left, now, 1 if this was a large claim}; {} for a consumer that was swept.
local now, id, first = read_now(ARGV[1]), ARGV[2], tonumber(ARGV[4])
local limit, begin = string.match(ARGV[3], '^(%d+) (%d+)$')
limit, begin = tonumber(limit), tonumber(begin)
local turns = ARGV[5] ~= '' and cmsgpack.unpack(ARGV[5])
local wanted = ARGV[6] ~= '' and cmsgpack.unpack(ARGV[6]) or {}
local queues = #ARGV - 7
local paused = {}
if not redis.call('ZSCORE', P .. 'celeriac.consumers', id) then return {} end
local me = P .. 'celeriac.consumer.' .. id
local revoked = P .. 'celeriac.revoked'
local revocations = redis.call('ZCARD', revoked) > 0
local runs, notes, envelopes, troubles = {}, {}, {}, {}

local function note(place, deliveries, interrupted, envelope)
    local gone = 0
    if revocations then
        local till = redis.call('ZSCORE', revoked, task_of(envelope))
        if till and tonumber(till) > now then gone = 1 end
    end
    if deliveries > 0 or gone == 1 then
        for _, fact in ipairs({place, deliveries, interrupted, gone}) do notes[#notes + 1] = fact end
    end
end

local function mark_first()
    -- As started, those of the first ones that nothing is to be said of.
    local marks, noted = {}, {}
    for at = 1, #notes, 4 do noted[notes[at]] = true end
    for place = 1, math.min(begin, #envelopes) do
        if not noted[place] then marks[#marks + 1] = first + place - 1 end
    end
    if #marks > 0 then redis.call('SADD', P .. 'celeriac.started.' .. id, unpack(marks)) end
end

-- The same first number again: the answer was lost on the way. What was given then is given again.
local before = redis.call('HMGET', me, 'first', 'count', 'runs')
if before[1] == ARGV[4] then
    local number = first
    for index, count in string.gmatch(before[3], '(%d+) (%d+)') do
        local held = P .. 'celeriac.held.' .. id .. '.' .. ARGV[7 + index]
        runs[#runs + 1], runs[#runs + 2] = tonumber(index), tonumber(count)
        for _ = 1, tonumber(count) do
            local _, deliveries, interrupted, _, envelope = read_slip(redis.call('HGET', held, number))
            envelopes[#envelopes + 1] = envelope
            note(#envelopes, deliveries, interrupted, envelope)
            number = number + 1
        end
    end
    mark_first()
    return {-1, runs, notes, envelopes, troubles, {}, now, 1}
end
-- A smaller one than before: the request was given up long ago, and comes late. Nobody would read what it took.
if before[1] and tonumber(before[1]) > first then return {-1, runs, notes, envelopes, troubles, {}, now, 0} end

local function promote(queue, key)
    -- To the front of their lists, the one that was due first foremost.
    local due = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 500)
    if #due == 0 then return end
    local later = P .. 'celeriac.later.' .. queue
    local slips = redis.call('HMGET', later, unpack(due))
    redis.call('ZREM', key, unpack(due))
    redis.call('HDEL', later, unpack(due))
    for i = #due, 1, -1 do
        if slips[i] then
            local step, deliveries, interrupted, _, envelope = read_slip(slips[i])
            make_ready('RPUSH', queue, step, deliveries, interrupted, now, envelope)
        end
    end
end

local bytes, large = 0, false

local function take(index, queue, step, key, count)
    local found = redis.call('LRANGE', key, -count, -1)
    redis.call('LTRIM', key, 0, -count - 1)
    local returned = P .. 'celeriac.returned.' .. queue
    local known = redis.call('EXISTS', returned) == 1
    local held, fields = P .. 'celeriac.held.' .. id .. '.' .. queue, {}
    local fresh = step .. ' 0 0 ' .. now .. '\n'
    -- Of many the envelopes are kept as they are: writing each of them once more is a good part of what a claim costs.
    local bare = step == 0 and count >= 16
    for i = #found, 1, -1 do
        local envelope, deliveries, interrupted = found[i], 0, 0
        if known then
            local digest = redis.sha1hex(envelope)
            local counted = redis.pcall('HGET', returned, digest)
            if type(counted) == 'string' then
                redis.call('HDEL', returned, digest)
                local executions, cut = string.match(counted, '(%d+) (%d+)')
                deliveries, interrupted = tonumber(executions), tonumber(cut)
            end
        end
        envelopes[#envelopes + 1] = envelope
        bytes = bytes + #envelope
        fields[#fields + 1] = first + #envelopes - 1
        if deliveries > 0 then
            fields[#fields + 1] = write_slip(step, deliveries, interrupted, now, envelope)
        elseif bare and is_bare(envelope) then
            fields[#fields + 1], large = envelope, true
        else
            fields[#fields + 1] = fresh .. envelope
        end
        if deliveries > 0 or revocations then note(#envelopes, deliveries, interrupted, envelope) end
        if #fields >= 1000 then
            redis.call('HSET', held, unpack(fields))
            fields = {}
        end
    end
    if #fields > 0 then redis.call('HSET', held, unpack(fields)) end
    runs[#runs + 1], runs[#runs + 2] = index, #found
end

local function hold(index, deliveries, interrupted, step, envelope)
    envelopes[#envelopes + 1] = envelope
    bytes = bytes + #envelope
    redis.call('HSET', P .. 'celeriac.held.' .. id .. '.' .. ARGV[7 + index], first + #envelopes - 1,
        write_slip(step, deliveries, interrupted, now, envelope))
    note(#envelopes, deliveries, interrupted, envelope)
end

local function take_parked(index, key, count)
    -- Up to *count* of those that wait for what only a worker gives; how many.
    local queue, taken = ARGV[7 + index], 0
    for _, name in ipairs(redis.call('ZRANGE', line_key(queue, key), 0, count - 1)) do
        local slip = unpark(queue, key, name)
        if slip then
            local step, deliveries, interrupted, _, envelope = read_slip(slip)
            hold(index, deliveries, interrupted, step, envelope)
            taken = taken + 1
        end
    end
    if taken > 0 then runs[#runs + 1], runs[#runs + 2] = index, taken end
    return taken
end

if redis.call('EXISTS', PAUSED) == 1 then
    for index = 1, queues do paused[index] = redis.call('SISMEMBER', PAUSED, ARGV[7 + index]) == 1 end
end
local left, seen, cut = limit, {}, false
for index = 1, queues do
    if not paused[index] then
        promote(ARGV[7 + index], KEYS[#STEPS * queues + index])
        if redis.call('EXISTS', KEYS[(#STEPS + 1) * queues + index]) == 1 then open_gates(ARGV[7 + index], now) end
        for _, want in ipairs(wanted) do
            local count = math.min(want[2], left)
            if count > 0 then
                local taken = take_parked(index, want[1], count)
                want[2], left = want[2] - taken, left - taken
            end
        end
    end
end
write_slots()

local function share(waiting)
    -- Give each line its part of what is left: what is behind first. Strictly: who comes first takes what it can.
    if turns then
        table.sort(waiting, function(one, other)
            if one.passed ~= other.passed then return one.passed < other.passed end
            return one.weight == other.weight and one.index < other.index or one.weight > other.weight
        end)
    end
    local open = waiting
    while left > 0 and #open > 0 do
        local room, weights, still = left, 0, {}
        for _, line in ipairs(open) do weights = weights + line.weight end
        for _, line in ipairs(open) do
            local part = turns and math.max(1, math.floor(room * line.weight / weights)) or left
            local more = math.min(part, line.length - line.taken, left)
            line.taken, left = line.taken + more, left - more
            if turns then turns[line.index][1] = turns[line.index][1] + more / line.weight end
            if line.taken < line.length then still[#still + 1] = line end
        end
        open = still
    end
end
for place, step in ipairs(STEPS) do
    if left == 0 and not turns then break end
    local waiting = {}
    for index = 1, queues do
        local key = KEYS[(place - 1) * queues + index]
        local length = paused[index] and 0 or redis.pcall('LLEN', key)
        if type(length) == 'table' then
            troubles[#troubles + 1], length = key, 0
        end
        seen[index] = (seen[index] or 0) + length
        if length > 0 then
            local turn = turns and turns[index] or {0, 1}
            waiting[#waiting + 1] = {index = index, key = key, length = length, taken = 0, passed = turn[1], weight = turn[2]}
        end
    end
    share(waiting)
    for _, line in ipairs(waiting) do
        -- In portions, so that large messages come a few at a time.
        seen[line.index] = seen[line.index] - line.taken
        while line.taken > 0 and bytes < MOST_BYTES do
            local portion = math.min(line.taken, 50)
            take(line.index, ARGV[7 + line.index], step, line.key, portion)
            line.taken = line.taken - portion
        end
        if line.taken > 0 then left, cut = 0, true end
    end
end

if #envelopes > 0 then
    mark_first()
    local claims = ARGV[7]
    if large then claims = claims .. ' ' .. ARGV[4] .. ' ' .. now end
    redis.call('HSET', me, 'first', ARGV[4], 'runs', table.concat(runs, ' '), 'claims', claims)
end
local next_due = cut and 0 or -1
if left > 0 then
    for index = 1, queues do
        local soonest = paused[index] and {} or redis.call('ZRANGE', KEYS[#STEPS * queues + index], 0, 0, 'WITHSCORES')
        if soonest[2] then
            local wait = math.max(0, tonumber(soonest[2]) - now)
            if next_due < 0 or wait < next_due then next_due = wait end
        end
        local gate = paused[index] and {} or redis.call('ZRANGE', KEYS[(#STEPS + 1) * queues + index], 0, 0, 'WITHSCORES')
        if gate[2] then
            local wait = math.max(0, tonumber(gate[2]) - now)
            if next_due < 0 or wait < next_due then next_due = wait end
        end
        -- An original worker may have taken what was marked as returned.
        if seen[index] == 0 and not paused[index] then redis.call('DEL', P .. 'celeriac.returned.' .. ARGV[7 + index]) end
    end
    -- Last, because our own writes disarm: whoever changes one of these keys from now on has us told, once.
    redis.call('EXISTS', PAUSED, unpack(KEYS))
    for _, want in ipairs(wanted) do
        for index = 1, queues do redis.call('EXISTS', line_key(ARGV[7 + index], want[1])) end
    end
end
local emptied = {}
for index = 1, turns and queues or 0 do
    if seen[index] == 0 then emptied[#emptied + 1] = index end
end
return {math.ceil(next_due), runs, notes, envelopes, troubles, emptied, now, large and 1 or 0}
