-- Delete a delayed or parked message. ARGV: now, the queue, its name. Returns whether it was there.
local queue, name = ARGV[2], ARGV[3]
local facts = redis.call('HGET', P .. 'celeriac.parked.' .. queue, name)
if facts then
    unpark(queue, string.match(facts, '^%d+ (.*)$'), name)
    return 1
end
redis.call('HDEL', P .. 'celeriac.later.' .. queue, name)
return redis.call('ZREM', P .. 'celeriac.due.' .. queue, name)
