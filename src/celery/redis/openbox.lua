-- Bind a box, and forget those whose readers died. KEYS: kombu's bindings of the exchange, kombu's deadlines of such
-- sets, our boxes by their end, kombu's bindings that stay.
-- ARGV: the exchange, the binding, how long the box is kept in ms, how long kombu keeps bindings.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local dead = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 100)
if #dead > 0 then
    redis.call('SREM', KEYS[1], unpack(dead))
    redis.call('ZREM', KEYS[3], unpack(dead))
end
-- As kombu does it: a set that nobody has bound to for its time is forgotten as a whole.
local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
if ends and tonumber(ends) <= now and redis.call('EXISTS', KEYS[4]) == 0 then redis.call('DEL', KEYS[1]) end
-- A server out of memory refuses scripts whose first write takes memory; its workers must be able to answer.
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[2])
redis.call('PEXPIRE', KEYS[3], math.max(ARGV[3], ARGV[4]))
redis.call('ZADD', KEYS[2], 'GT', now + math.max(ARGV[3], ARGV[4]), ARGV[1])
return #dead
