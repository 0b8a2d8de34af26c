-- Settle and start deliveries of one consumer, with what comes of them, in one step.
-- ARGV: now, id, number of this batch, a plan (msgpack), then the values and envelopes that the plan counts on, in order.
-- The plan: {done, records, ends, starts, begun, joined, needs}
--   done     {{queue, {number...}}...}: ended, their messages go (numbers are text, which Redis need not write anew)
--   records  {{key, state, writer, ttl in ms (text), place in done}...}, a value each: their results
--   ends     {{queue, number, verb, delay in ms, reason, records, messages, arrivals, frees}...}
--            frees {{unique key, task}...}
--            records {{key, state, writer, ttl}...}, messages {{queue, step, due in ms or 0, task}...},
--            arrivals {{group, index, size, 1 if it makes the join wait for more, places in joined...}...}: a value or
--            envelope each
--   starts   {{queue, {number...}, whether some may not be held}...}: to be marked as started
--   begun    {{key, state, writer, ttl}...}, a value each: records that say so
--   joined   messages, an envelope each: what completed joins send
--   needs    {{queue, {{number, permits}...}}...}: permits (permits.lua) without which it must not be started
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

local results, joins = {}, {}
local applied, lost, place = {}, 0, 0
for _, group in ipairs(plan[1]) do
    local held, numbers = held_key(group[1]), group[2]
    for from = 1, #numbers, 1000 do
        local some = numbers
        if #numbers > 1000 then some = {unpack(numbers, from, math.min(from + 999, #numbers))} end
        -- What is marked as started is held: nearly always it is all of them.
        if redis.call('SREM', started, unpack(some)) == #some then
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
        free(id, some, now)
    end
end
for _, record in ipairs(plan[2]) do
    blob = blob + 1
    if not applied[record[5]] then record.blob, results[#results + 1] = blob, record end
end
if lost > 0 then
    for i = 1, place do applied[i] = applied[i] or '1' end
end

local ended, follow_ups = {}, {}
for i, ending in ipairs(plan[3]) do
    local queue, number, verb = ending[1], ending[2], ending[3]
    local slip = redis.call('HGET', held_key(queue), number)
    ended[i] = slip and '1' or '0'
    if slip then
        local step, deliveries, interrupted, _, envelope = read_slip(slip)
        redis.call('HDEL', held_key(queue), number)
        if redis.call('SREM', started, number) == 1 then deliveries, interrupted = deliveries + 1, 0 end
        free(id, {number}, now)
        if some_granted then free_granted(envelope, now) end
        for _, freed in ipairs(ending[9]) do free_unique(queue, freed[1], freed[2], now) end
        if verb == 'requeue' and ending[4] > 0 then
            delay(queue, step, deliveries, interrupted, now + ending[4], task_of(envelope), now, envelope)
        elseif verb == 'requeue' then
            make_ready('LPUSH', queue, step, deliveries, interrupted, now, envelope)
        elseif verb == 'dead' then
            bury(id .. '-' .. number, queue, step, deliveries, interrupted, now, ending[5], envelope)
        end
    end
    for _, record in ipairs(ending[6]) do
        blob = blob + 1
        if slip then record.blob, results[#results + 1] = blob, record end
    end
    for _, message in ipairs(ending[7]) do
        blob = blob + 1
        if slip then follow_ups[#follow_ups + 1] = {message, ARGV[blob]} end
    end
    for _, arrival in ipairs(ending[8]) do
        blob = blob + 1
        if slip then joins[#joins + 1] = {arrival, blob} end
    end
end

local function send(message, envelope)
    if message[3] > now then
        delay(message[1], message[2], 0, 0, message[3], message[4], now, envelope)
    else
        make_ready('LPUSH', message[1], message[2], 0, 0, now, envelope)
    end
end

for _, follow_up in ipairs(follow_ups) do send(follow_up[1], follow_up[2]) end

local verdicts = {}
local revoked = P .. 'celeriac.revoked'
local revocations = #plan[4] > 0 and redis.call('ZCARD', revoked) > 0
local needs, given = {}, {}
for _, group in ipairs(plan[7]) do
    local of_queue = {}
    for _, need in ipairs(group[2]) do of_queue[need[1]] = need[2] end
    needs[group[1]] = of_queue
end
local mine = P .. 'celeriac.permits.' .. id

local function write_given()
    -- What was given becomes known: of each key its holders, of each holder its keys.
    local by_number, fields = {}, {}
    for key, numbers in pairs(given) do
        for from = 1, #numbers, 1000 do
            local holders = {}
            for i = from, math.min(from + 999, #numbers) do
                holders[#holders + 1], holders[#holders + 2] = id .. '-' .. numbers[i], 1
                by_number[numbers[i]] = (by_number[numbers[i]] and by_number[numbers[i]] .. '\n' or '') .. key
            end
            redis.call('HSET', slots_key(key), unpack(holders))
        end
    end
    for number, keys in pairs(by_number) do
        fields[#fields + 1], fields[#fields + 2] = number, keys
        if #fields >= 1000 then
            redis.call('HSET', mine, unpack(fields))
            fields = {}
        end
    end
    if #fields > 0 then redis.call('HSET', mine, unpack(fields)) end
    given = {}
end

local has_some = #plan[7] > 0 and redis.call('EXISTS', mine) == 1
local counts = {}  -- of each key how many have a place, but for those in `given`

local function is_free(key, slots)
    counts[key] = counts[key] or redis.call('HLEN', slots_key(key))
    return counts[key] + (given[key] and #given[key] or 0) < slots
end

local function ask(queue, number, permits)
    -- Whether it has all permits it needs now; it is parked if it does not get them.
    if has_some and redis.call('HEXISTS', mine, number) == 1 then return true end
    local digest, granted
    if some_granted then
        local slip = redis.call('HGET', held_key(queue), number)
        if not slip then return false end
        local _, _, _, _, envelope = read_slip(slip)
        digest = redis.sha1hex(envelope)
        granted = redis.call('HGET', GRANTED_TO, digest)
    end
    for _, permit in ipairs(permits) do
        local key, slots = permit[1], permit[2]
        local fine = granted == key or (slots > 0 and is_free(key, slots))
        if slots == 0 then fine = may(permit, queue, granted == key, now, 0) end
        if not fine then
            local slip = redis.call('HGET', held_key(queue), number)
            if not slip then return false end
            local step, deliveries, interrupted, _, envelope = read_slip(slip)
            redis.call('HDEL', held_key(queue), number)
            write_given()  -- it may be asked who has what
            park(queue, step, deliveries, interrupted, now, envelope, permit)
            counts, some_granted = {}, redis.call('EXISTS', GRANTED_TO) == 1
            return false
        end
    end
    if granted then
        ungrant(digest)
        counts[granted], some_granted = nil, redis.call('EXISTS', GRANTED_TO) == 1
    end
    for _, permit in ipairs(permits) do
        local key = permit[1]
        if permit[2] > 0 then
            given[key] = given[key] or {}
            table.insert(given[key], number)
        else
            pass_gate(permit, queue, now)
        end
    end
    return true
end

local listed = #plan[4] > 0 and redis.call('ZSCORE', P .. 'celeriac.consumers', id)
for _, group in ipairs(plan[4]) do
    local held, marks, of_queue = held_key(group[1]), group[2], needs[group[1]]
    if not listed or redis.call('EXISTS', held) == 0 then
        -- It was swept, or somebody has emptied the server.
        verdicts[#verdicts + 1], marks = string.rep('l', #marks), {}
    elseif revocations or of_queue or group[3] then
        marks = {}
        for _, number in ipairs(group[2]) do
            local verdict = 'o'
            local slip = (revocations or group[3]) and redis.call('HGET', held, number)
            if group[3] and not slip or revocations and not slip then
                verdict = 'l'
            elseif revocations then
                local _, _, _, _, envelope = read_slip(slip)
                local till = redis.call('ZSCORE', revoked, task_of(envelope))
                if till and tonumber(till) > now then verdict = 'r' end
            end
            if verdict == 'o' and of_queue and of_queue[number] and not ask(group[1], number, of_queue[number]) then
                verdict = 'p'
            end
            if verdict == 'o' then marks[#marks + 1] = number end
            verdicts[#verdicts + 1] = verdict
        end
    else
        verdicts[#verdicts + 1] = string.rep('o', #marks)
    end
    for from = 1, #marks, 1000 do
        redis.call('SADD', started, unpack(marks, from, math.min(from + 999, #marks)))
    end
end
write_given()
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
