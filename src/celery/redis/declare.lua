-- Remember queues and bindings. ARGV: a key and what to add to its set, again and again.
-- A server out of memory refuses scripts whose first write takes memory; workers must be able to start and empty it.
redis.call('SREM', ARGV[1], '')
for i = 1, #ARGV, 2 do redis.call('SADD', ARGV[i], ARGV[i + 1]) end
