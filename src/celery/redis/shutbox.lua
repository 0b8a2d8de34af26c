-- Unbind a box. KEYS: kombu's bindings of the exchange, kombu's deadlines of such sets, our boxes by their end.
-- ARGV: the exchange, the binding, the list.
redis.call('SREM', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('DEL', ARGV[3])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', KEYS[2], ARGV[1]) end
return 1
