-- Dead messages become fresh ones, at the back of their queues. ARGV: now, queue, names. How many.
-- None of a queue whose only listener is gone (leaving.lua): nobody would get them.
local now, queue, count = read_now(ARGV[1]), ARGV[2], 0
if redis.call('SISMEMBER', P .. 'celeriac.unheard', queue) == 1 then return 0 end
local slips = P .. 'celeriac.dead.slips.' .. queue
for i = 3, #ARGV do
    local slip = redis.call('HGET', slips, ARGV[i])
    if slip then
        redis.call('HDEL', slips, ARGV[i])
        redis.call('ZREM', P .. 'celeriac.dead.' .. queue, ARGV[i])
        local ends = string.find(slip, '\n', 1, true)
        local step, _, _, _, envelope = read_slip(string.sub(slip, ends + 1 + tonumber(string.sub(slip, 1, ends - 1))))
        make_ready('LPUSH', queue, step, 0, 0, now, envelope)
        count = count + 1
    end
end
return count
