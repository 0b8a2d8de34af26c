-- Publish unless another task holds a key. KEYS: the mark of this connection.
-- ARGV: now, number of this request, the unique key, until when it is held (ms), the task, a task that holds it in vain,
-- a plan (msgpack; see sending.lua), the envelopes. Returns the task that holds the key.
local now, key, till, task = read_now(ARGV[1]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local last = redis.call('GET', KEYS[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then return task end
local holder = holder_of(key, now)
if holder and holder ~= task and holder ~= ARGV[6] then return holder end
local plan = cmsgpack.unpack(ARGV[7])
local trouble = plan_trouble(plan)
if trouble then return trouble end
redis.call('SET', KEYS[1], ARGV[2], 'EX', 60)
if till > now then
    local keys = P .. 'celeriac.uniques.' .. plan[1][1]
    redis.call('SET', unique_key(key), ARGV[4] .. ' ' .. task, 'PX', math.ceil(till - now))
    redis.call('ZREMRANGEBYSCORE', keys, '-inf', now)
    redis.call('ZADD', keys, till, key)
    keep_for_last(keys, now)
end
send_plan(plan, now, 8)
return task
