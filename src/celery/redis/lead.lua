-- Take or keep the lease of a schedule book. ARGV: now, what its keys begin with, who asks, for how long (ms; 0: only look).
-- Returns {token of who asked or 0, leader, ms left, now in ms, version}.
local now, lease, who, ttl = read_now(ARGV[1]), ARGV[2] .. 'lease', ARGV[3], tonumber(ARGV[4])
local held = redis.call('HMGET', lease, 'token', 'who', 'until', 'version')
local token, leader, till = tonumber(held[1] or 0), held[2] or '', tonumber(held[3] or 0)
if ttl > 0 and (till <= now or leader == who) then
    if till <= now then token = token + 1 end
    leader, till = who, now + ttl
    redis.call('HSET', lease, 'token', token, 'who', who, 'until', till)
end
local valid = till > now
return {valid and leader == who and token or 0, valid and leader or '', math.max(0, till - now), now, tonumber(held[4] or 0)}
