-- Give back the lease of a schedule book. ARGV: what its keys begin with, the token.
if redis.call('HGET', ARGV[1] .. 'lease', 'token') == ARGV[2] then redis.call('HSET', ARGV[1] .. 'lease', 'until', 0) end
return 1
