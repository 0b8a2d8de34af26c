-- A slip is an envelope with what must be known of it while it is not in a ready list:
--   step deliveries interrupted since LF envelope
-- The step is that of its priority; `deliveries` counts executions that were started; `interrupted` is 1 when the last
-- one ended with its worker; `since` is when it came here, in Unix milliseconds.
-- Of a large claim an envelope alone stands for "0 0 0 since": since when is in the hash of its consumer (`claims`).
-- Constants before this file: P (what stands before every key), SEP (between a queue's name and a step), INNER (the
-- step of what only workers of ours may get).

local function read_now(given)
    -- The server's clock; tests hand in their own.
    if given ~= '' then return tonumber(given) end
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function keep_for_last(set, now)
    -- A sorted set of what ends at its score ends with the last of it.
    local last = redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')
    if last[2] then redis.call('PEXPIRE', set, math.max(1, math.ceil(last[2] - now))) end
end

local function ready_key(queue, step)
    if step == 0 then return P .. queue end
    if step == INNER then return P .. 'celeriac.inner.' .. queue end
    return P .. queue .. SEP .. step
end

local function write_slip(step, deliveries, interrupted, since, envelope)
    return step .. ' ' .. deliveries .. ' ' .. interrupted .. ' ' .. since .. '\n' .. envelope
end

local function is_bare(slip) return string.byte(slip) == 123 end -- a brace, which begins every envelope

local function read_slip(slip)
    if is_bare(slip) then return 0, 0, 0, nil, slip end
    local ends = string.find(slip, '\n', 1, true)
    local step, deliveries, interrupted, since =
        string.match(string.sub(slip, 1, ends - 1), '^(%d+) (%d+) (%d+) (%d+)$')
    return tonumber(step), tonumber(deliveries), tonumber(interrupted), tonumber(since), string.sub(slip, ends + 1)
end

local function task_of(envelope)
    -- The id of its task. Quotes in the body of an envelope are escaped or in base64, so these are the real fields.
    return string.match(envelope, '"id": ?"([^"\\]*)"') or string.match(envelope, '"correlation_id": ?"([^"\\]*)"') or ''
end

local function bury(name, queue, step, deliveries, interrupted, now, reason, envelope)
    -- Into the dead set: length of the reason, LF, the reason, the slip.
    local slip = write_slip(step, deliveries, interrupted, now, envelope)
    redis.call('HSET', P .. 'celeriac.dead.slips.' .. queue, name, #reason .. '\n' .. reason .. slip)
    redis.call('ZADD', P .. 'celeriac.dead.' .. queue, now, name)
    redis.call('SADD', P .. 'celeriac.queues', queue)
end

local function make_ready(side, queue, step, deliveries, interrupted, now, envelope)
    -- To the front (RPUSH) or the back (LPUSH) of its list. What a list cannot hold is remembered beside it.
    local pushed = redis.pcall(side, ready_key(queue, step), envelope)
    if type(pushed) == 'table' and pushed.err then
        local name = redis.sha1hex(envelope)
        bury(name, queue, step, deliveries, interrupted, now, 'It could not be put into its queue: ' .. pushed.err, envelope)
    elseif deliveries > 0 then
        redis.pcall('HSET', P .. 'celeriac.returned.' .. queue, redis.sha1hex(envelope), deliveries .. ' ' .. interrupted)
    end
end

local function keep_later(queue, task, envelope, slip)
    -- Keep the slip of what is delayed or parked; the name that it has there.
    local later = P .. 'celeriac.later.' .. queue
    local name = task
    if name == '' then name = redis.sha1hex(envelope) end
    while redis.call('HSETNX', later, name, slip) == 0 do name = name .. '+' end
    return name
end

local function delay(queue, step, deliveries, interrupted, due, task, now, envelope)
    local slip = write_slip(step, deliveries, interrupted, now, envelope)
    redis.call('ZADD', P .. 'celeriac.due.' .. queue, due, keep_later(queue, task, envelope, slip))
end
