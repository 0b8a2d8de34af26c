-- Settle and start deliveries of one consumer, with what comes of them, in one step.
-- ARGV: now, id, number of this batch, a plan (msgpack), then the values and envelopes that the plan counts on, in order.
-- The plan: {done, records, ends, starts, begun, joined}
--   done     {{queue, {number...}, {{keys, count}...}}...}: ended, their messages go (numbers are text, which Redis need
--            not write anew). All, or none, of a group with keys is marked as started: so many of it with these slots
--   records  {{key, state, writer, ttl in ms (text), place in done}...}, a value each: their results
--   ends     {{queue, number, verb, delay in ms, reason, records, messages, arrivals, frees, keys}...}
--            frees {{unique key, task}...}
--            records {{key, state, writer, ttl}...}, messages {{queue, step, due in ms or 0, task}...},
--            arrivals {{group, index, size, 1 if it makes the join wait for more, places in joined...}...}: a value or
--            envelope each
--   starts   {{queue, {number...}, whether some may be started already or not held, permits, ignored}...}: to be marked as
--            started; permits (permits.lua): without which they must not be, if any
--   begun    {{key, state, writer, ttl}...}, a value each: records that say so
--   joined   messages, an envelope each: what completed joins send
-- Returns three texts, a letter for each: '1' applied or '0' lost, of done and of ends ('' for done: all applied), and of
-- starts 'o' ok, 'l' lost, 'r' revoked, 'p' parked; how many others this made ready, as text; then a text for each
-- result that could not be stored.
local now, id = read_now(ARGV[1]), ARGV[2]
local me, started = P .. 'celeriac.consumer.' .. id, P .. 'celeriac.started.' .. id
local before = redis.call('HMGET', me, 'batch', 'answer')
if before[1] == ARGV[3] then return cjson.decode(before[2]) end
-- A smaller one than before: the request was given up long ago, and comes late.
if before[1] and tonumber(before[1]) > tonumber(ARGV[3]) then return {'', '', '', '0'} end
local plan = cmsgpack.unpack(ARGV[4])
local blob = 4
-- A server out of memory refuses scripts whose first write takes memory; workers must be able to finish.
redis.call('HDEL', me, 'answer')

local function held_key(queue) return P .. 'celeriac.held.' .. id .. '.' .. queue end

local some_granted = redis.call('EXISTS', GRANTED_TO) == 1
local asked = {}
for _, group in ipairs(plan[1]) do
    for _, part in ipairs(group[3] or {}) do
        for _, key in ipairs(part[1]) do asked[#asked + 1] = key end
    end
end
for _, group in ipairs(plan[4]) do
    for _, permit in ipairs(group[4] or {}) do
        if permit[2] > 0 then asked[#asked + 1] = permit[1] end
    end
end
read_slots(asked)

local results, joins = {}, {}
local applied, lost, place, freed = {}, 0, 0, {}
for _, group in ipairs(plan[1]) do
    local held, numbers, ran = held_key(group[1]), group[2], 0
    for from = 1, #numbers, 1000 do
        local some = numbers
        if #numbers > 1000 then some = {unpack(numbers, from, math.min(from + 999, #numbers))} end
        -- What is marked as started is held: nearly always it is all of them.
        local gone = redis.call('SREM', started, unpack(some))
        ran = ran + gone
        if gone == #some then
            redis.call('HDEL', held, unpack(some))
            place = place + #some
        else
            for _, number in ipairs(some) do
                place = place + 1
                local slip = some_granted and redis.call('HGET', held, number)
                if slip then
                    local _, _, _, _, envelope = read_slip(slip)
                    free_granted(envelope, now)
                end
                if redis.call('HDEL', held, number) == 0 then
                    applied[place], lost = '0', lost + 1
                end
            end
        end
    end
    for _, part in ipairs(ran > 0 and group[3] or {}) do
        for _, key in ipairs(part[1]) do
            take_mine(key, -math.min(part[2], ran))
            freed[key] = true
        end
    end
end
wake_all(freed, now)
for _, record in ipairs(plan[2]) do
    blob = blob + 1
    if not applied[record[5]] then record.blob, results[#results + 1] = blob, record end
end
if lost > 0 then
    for i = 1, place do applied[i] = applied[i] or '1' end
end

local function move_on(ending, number, ran, slip)
    -- What ended, but may not be gone.
    local queue, verb = ending[1], ending[3]
    local step, deliveries, interrupted, _, envelope = read_slip(slip)
    if ran then deliveries, interrupted = deliveries + 1, 0 end
    if some_granted then free_granted(envelope, now) end
    if verb == 'requeue' and ending[4] > 0 then
        delay(queue, step, deliveries, interrupted, now + ending[4], task_of(envelope), now, envelope)
    elseif verb == 'requeue' then
        make_ready('LPUSH', queue, step, deliveries, interrupted, now, envelope)
    elseif verb == 'dead' then
        bury(id .. '-' .. number, queue, step, deliveries, interrupted, now, ending[5], envelope)
    end
end

local ended, follow_ups = {}, {}
for i, ending in ipairs(plan[3]) do
    local queue, number = ending[1], ending[2]
    -- Of what is done nothing has to be read.
    local slip = (ending[3] ~= 'done' or some_granted) and redis.call('HGET', held_key(queue), number)
    local held = redis.call('HDEL', held_key(queue), number) == 1
    ended[i] = held and '1' or '0'
    if held then
        local ran = redis.call('SREM', started, number) == 1
        if ran then free(ending[10], 1, now) end
        if slip then move_on(ending, number, ran, slip) end
        for _, freed in ipairs(ending[9]) do free_unique(queue, freed[1], freed[2], now) end
    end
    for _, record in ipairs(ending[6]) do
        blob = blob + 1
        if held then record.blob, results[#results + 1] = blob, record end
    end
    for _, message in ipairs(ending[7]) do
        blob = blob + 1
        if held then follow_ups[#follow_ups + 1] = {message, ARGV[blob]} end
    end
    for _, arrival in ipairs(ending[8]) do
        blob = blob + 1
        if held then joins[#joins + 1] = {arrival, blob} end
    end
end

local function send(message, envelope)
    if message[5] == 2 then
        redis.call('PUBLISH', message[1], envelope)
    elseif message[3] > now then
        delay(message[1], message[2], 0, 0, message[3], message[4], now, envelope)
    else
        make_ready('LPUSH', message[1], message[2], 0, 0, now, envelope)
    end
end

for _, follow_up in ipairs(follow_ups) do send(follow_up[1], follow_up[2]) end

local verdicts = {}
local revoked = P .. 'celeriac.revoked'
local revocations = #plan[4] > 0 and redis.call('ZCARD', revoked) > 0

local function park_held(queue, number, permit)
    -- The letter for one that lacks a permit.
    local slip = redis.call('HGET', held_key(queue), number)
    if not slip then return 'l' end
    local step, deliveries, interrupted, _, envelope = read_slip(slip)
    redis.call('HDEL', held_key(queue), number)
    park(queue, step, deliveries, interrupted, now, envelope, permit)
    some_granted = redis.call('EXISTS', GRANTED_TO) == 1
    return 'p'
end

local function ask(queue, number, permits)
    -- The letter for one that needs permits, for which one may be kept.
    local granted, digest
    if some_granted then
        local slip = redis.call('HGET', held_key(queue), number)
        if not slip then return 'l' end
        local _, _, _, _, envelope = read_slip(slip)
        digest = redis.sha1hex(envelope)
        granted = redis.call('HGET', GRANTED_TO, digest)
    end
    local permit = lacking(permits, queue, granted, now)
    if permit then return park_held(queue, number, permit) end
    if granted then
        ungrant(digest)
        some_granted = redis.call('EXISTS', GRANTED_TO) == 1
    end
    give(permits, queue, 1, now)
    return 'o'
end

local function look_at(queue, number, doubtful, permits)
    -- The letter for one of which it is not known that it is held, fresh and wanted.
    local slip = (revocations or doubtful) and redis.call('HGET', held_key(queue), number)
    if (revocations or doubtful) and not slip then return 'l' end
    if revocations then
        local _, _, _, _, envelope = read_slip(slip)
        local till = redis.call('ZSCORE', revoked, task_of(envelope))
        if till and tonumber(till) > now then return 'r' end
    end
    if not permits or doubtful and redis.call('SISMEMBER', started, number) == 1 then return 'o' end
    return ask(queue, number, permits)
end

local listed = #plan[4] > 0 and redis.call('ZSCORE', P .. 'celeriac.consumers', id)
local known, marks = {}, {}
for _, group in ipairs(plan[4]) do
    local queue, numbers, doubtful, permits = group[1], group[2], group[3], group[4]
    -- If there are none it was swept, or somebody has emptied the server.
    if known[queue] == nil then known[queue] = listed and redis.call('EXISTS', held_key(queue)) == 1 end
    local sure = 0  -- so many in front may start
    if known[queue] and not (revocations or doubtful or permits and some_granted) then
        sure = permits and enough_for(permits, queue, #numbers, now) or #numbers
        give(permits or {}, queue, sure, now)
        verdicts[#verdicts + 1] = string.rep('o', sure)
        for i = 1, sure do marks[#marks + 1] = numbers[i] end
    end
    for i = sure + 1, #numbers do
        local verdict = known[queue] and look_at(queue, numbers[i], doubtful, permits) or 'l'
        if verdict == 'o' then marks[#marks + 1] = numbers[i] end
        verdicts[#verdicts + 1] = verdict
    end
end
in_portions(marks, function(...) redis.call('SADD', started, ...) end)
write_slots(id)
for _, record in ipairs(plan[5]) do
    blob = blob + 1
    record.blob, results[#results + 1] = blob, record
end

local answer = {lost == 0 and '' or table.concat(applied), table.concat(ended), table.concat(verdicts), tostring(woken)}
if #results + #joins > 0 then
    if STORE_DB ~= DB then redis.call('SELECT', STORE_DB) end
    for _, result in ipairs(results) do
        -- A key that holds something else must not keep the task from ending.
        local fine, trouble = pcall(put_record, STORE_P, result[1], ARGV[result.blob], result[2], result[3], result[4])
        if not fine then answer[#answer + 1] = result[1] .. ': ' .. (type(trouble) == 'table' and trouble.err or trouble) end
    end
    local complete = {}
    for _, join in ipairs(joins) do
        local arrival = join[1]
        local fine, last = pcall(arrive, arrival[1], arrival[2], ARGV[join[2]], arrival[3], arrival[4] == 1)
        if not fine then
            answer[#answer + 1] = arrival[1] .. ': ' .. (type(last) == 'table' and last.err or last)
        elseif last then
            complete[#complete + 1] = arrival
        end
    end
    if STORE_DB ~= DB then redis.call('SELECT', DB) end
    for _, arrival in ipairs(complete) do
        for at = 5, #arrival do send(plan[6][arrival[at]], ARGV[blob + arrival[at]]) end
    end
end
if redis.call('EXISTS', me) == 1 then
    redis.call('HSET', me, 'batch', ARGV[3], 'answer', cjson.encode(answer))
end
return answer
