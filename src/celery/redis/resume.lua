-- End the pause of queues. ARGV: now, the queues. Returns how many messages that wait for a slot were woken by it.
local now, keys = read_now(ARGV[1]), {}
for i = 2, #ARGV do redis.call('SREM', PAUSED, ARGV[i]) end
for i = 2, #ARGV do
    for _, facts in ipairs(redis.call('HVALS', P .. 'celeriac.parked.' .. ARGV[i])) do
        local slots, key = string.match(facts, '^(%d+) (.*)$')
        if slots ~= '0' then keys[key] = true end
    end
end
for key in pairs(keys) do wake(key, now) end
write_slots()
return woken
