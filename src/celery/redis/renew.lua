-- Keep the lease. ARGV: now, id, lease (ms). 0 if it had been swept.
-- Removed first: a server out of memory refuses scripts whose first write takes memory.
if redis.call('ZREM', P .. 'celeriac.consumers', ARGV[2]) == 0 then return 0 end
redis.call('ZADD', P .. 'celeriac.consumers', read_now(ARGV[1]) + ARGV[3], ARGV[2])
return 1
