-- Putting messages where they go: now, or later. Needs slips.lua.
-- A plan: {{queue, step, due in ms or 0 (below: ms that a reply queue is kept), task, 1 to hold it back whoever listens,
-- 2 if it is a channel, whose listeners are told now}...}, an envelope each.
-- What is due later is held here only if a worker of ours listens to the queue, who will fetch it: workers of the
-- original Celery hold such messages themselves.

local function listeners(now)
    local listened = {}
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'celeriac.consumers', now, '+inf')) do
        local names = redis.call('HGET', P .. 'celeriac.consumer.' .. id, 'queues')
        for _, name in ipairs(names and cjson.decode(names) or {}) do listened[name] = true end
    end
    return listened
end

local function plan_trouble(plan)
    -- An error if a message goes to a key that is none of ours; ask before the first write.
    local checked = {}
    for _, message in ipairs(plan) do
        local key = ready_key(message[1], message[2])
        if message[5] == 2 then checked[key] = true end
        if not checked[key] then
            local kind = redis.call('TYPE', key).ok
            if kind ~= 'list' and kind ~= 'none' then
                return redis.error_reply('WRONGTYPE the key ' .. key .. ' holds a ' .. kind .. ' and not a list of messages')
            end
            checked[key] = true
        end
    end
end

local function send_plan(plan, now, first)
    -- The envelopes are in ARGV from *first* on.
    local listened
    for i, message in ipairs(plan) do
        local queue, step, due, envelope = message[1], message[2], message[3], ARGV[first + i - 1]
        if due > now and message[5] ~= 1 then listened = listened or listeners(now) end
        if message[5] == 2 then
            redis.call('PUBLISH', queue, envelope)
        elseif due > now and (message[5] == 1 or listened[queue]) then
            delay(queue, step, 0, 0, due, message[4], now, envelope)
        else
            redis.call('LPUSH', ready_key(queue, step), envelope)
            if due < 0 then redis.call('PEXPIRE', ready_key(queue, step), -due) end
        end
    end
end
