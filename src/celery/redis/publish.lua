-- Publish to several queues, now and later; all or nothing. KEYS: the mark of this connection.
-- ARGV: now, number of this request, a plan (msgpack), the envelopes that the plan counts on, in order.
-- The plan: {{queue, step, due in ms or 0, task, 1 to hold it back whoever listens}...}
-- What is due later is held here only if a worker of ours listens to the queue, who will fetch it: workers of the
-- original Celery hold such messages themselves.
local now = read_now(ARGV[1])
local last = redis.call('GET', KEYS[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then return 0 end
local plan = cmsgpack.unpack(ARGV[3])
local listened
local function has_listener(queue)
    if not listened then
        listened = {}
        for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'celeriac.consumers', now, '+inf')) do
            local names = redis.call('HGET', P .. 'celeriac.consumer.' .. id, 'queues')
            for _, name in ipairs(names and cjson.decode(names) or {}) do listened[name] = true end
        end
    end
    return listened[queue]
end
local checked = {}
for _, message in ipairs(plan) do
    local key = ready_key(message[1], message[2])
    if not checked[key] then
        local kind = redis.call('TYPE', key).ok
        if kind ~= 'list' and kind ~= 'none' then
            return redis.error_reply('WRONGTYPE the key ' .. key .. ' holds a ' .. kind .. ' and not a list of messages')
        end
        checked[key] = true
    end
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', 60)
for i, message in ipairs(plan) do
    local queue, step, due, envelope = message[1], message[2], message[3], ARGV[3 + i]
    if due > now and (message[5] == 1 or has_listener(queue)) then
        delay(queue, step, 0, 0, due, message[4], now, envelope)
    else
        redis.call('LPUSH', ready_key(queue, step), envelope)
    end
end
return 1
