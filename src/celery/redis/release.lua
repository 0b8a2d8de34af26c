-- Give back deliveries that were not run, uncounted, to the front. ARGV: now, id, {{queue, {number...}, slots}...}
-- (msgpack); slots: {number = keys} of those that may have been started with some.
local now, id = read_now(ARGV[1]), ARGV[2]
local back = 0
for _, group in ipairs(cmsgpack.unpack(ARGV[3])) do
    local queue, numbers = group[1], group[2]
    local held = P .. 'celeriac.held.' .. id .. '.' .. queue
    table.sort(numbers, function(one, other) return tonumber(one) < tonumber(other) end)
    for i = #numbers, 1, -1 do
        local slip = redis.call('HGET', held, numbers[i])
        if slip then
            local step, deliveries, interrupted, _, envelope = read_slip(slip)
            redis.call('HDEL', held, numbers[i])
            local ran = redis.call('SREM', P .. 'celeriac.started.' .. id, numbers[i]) == 1
            make_ready('RPUSH', queue, step, deliveries, interrupted, now, envelope)
            if ran and group[3] and group[3][numbers[i]] then free(group[3][numbers[i]], 1, now) end
            back = back + 1
        end
    end
end
write_slots(id)
return back
