-- Note names, each until its time; of too many those go that end first. KEYS: the sorted set.
-- ARGV: now, for how long (ms), how many at most, the names.
local now, set = read_now(ARGV[1]), KEYS[1]
for i = 4, #ARGV do redis.call('ZADD', set, 'GT', now + ARGV[2], ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', set, '-inf', now)
redis.call('ZREMRANGEBYRANK', set, 0, -ARGV[3] - 1)
keep_for_last(set, now)
return 1
