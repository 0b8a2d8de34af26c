-- Tasks of a queue are gone: what they hold is free. ARGV: now, the queue, the tasks.
local now, queue, gone = read_now(ARGV[1]), ARGV[2], {}
for i = 3, #ARGV do gone[ARGV[i]] = true end
for _, key in ipairs(redis.call('ZRANGE', P .. 'celeriac.uniques.' .. queue, 0, -1)) do
    local holder = holder_of(key, now)
    if holder and gone[holder] then free_unique(queue, key, holder, now) end
end
return 1
