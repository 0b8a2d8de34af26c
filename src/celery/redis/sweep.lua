-- Give back what consumers held whose lease has run out, and permits that nobody came for. ARGV: now, seconds of grace.
-- Returns how many messages came back, and how many were woken.
-- Right after a start of the server every lease may have run out while it was down: their owners get the time to renew.
local now = read_now(ARGV[1])
local late = redis.call('ZRANGEBYSCORE', P .. 'celeriac.consumers', '-inf', now, 'LIMIT', 0, 100)
lapse(now)
write_slots()
forget_buried(now)
if #late == 0 then return {0, woken} end
local info = redis.pcall('INFO', 'server')
local up = type(info) == 'string' and tonumber(string.match(info, 'uptime_in_seconds:(%d+)'))
if up and up < tonumber(ARGV[2]) then return {0, woken} end
local count = 0
for _, id in ipairs(late) do count = count + leave(id, now) end
write_slots()
return {count, woken}
