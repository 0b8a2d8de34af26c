-- Publish to several queues, now and later; all or nothing. KEYS: the mark of this connection.
-- ARGV: now, number of this request, a plan (msgpack; see sending.lua), the envelopes that the plan counts on, in order.
local now = read_now(ARGV[1])
local last = redis.call('GET', KEYS[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then return 0 end
local plan = cmsgpack.unpack(ARGV[3])
local trouble = plan_trouble(plan)
if trouble then return trouble end
redis.call('SET', KEYS[1], ARGV[2], 'EX', 60)
send_plan(plan, now, 4)
return 1
