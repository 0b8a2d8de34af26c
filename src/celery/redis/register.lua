-- A new consumer. ARGV: now, id, lease (ms), name, queues (JSON), those that are its own (JSON; see
-- leaving.lua; '' for none), each queue. 0 if the id is taken.
local now, id = read_now(ARGV[1]), ARGV[2]
local me = P .. 'celeriac.consumer.' .. id
if redis.call('EXISTS', me) == 1 then return redis.call('HGET', me, 'name') == ARGV[4] and 1 or 0 end
-- A server out of memory refuses scripts whose first write takes memory; workers must be able to start and empty it.
redis.call('HDEL', me, 'name')
redis.call('HSET', me, 'name', ARGV[4], 'queues', ARGV[5])
if ARGV[6] ~= '' then redis.call('HSET', me, 'own', ARGV[6]) end
redis.call('ZADD', P .. 'celeriac.consumers', now + ARGV[3], id)
for i = 7, #ARGV do
    redis.call('SADD', P .. 'celeriac.queues', ARGV[i])
    redis.call('SREM', P .. 'celeriac.unheard', ARGV[i])
end
return 1
