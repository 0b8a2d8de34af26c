-- Give back deliveries that were not run, uncounted, to the front. ARGV: now, id, {{queue, {number...}}...} (msgpack).
local now, id = read_now(ARGV[1]), ARGV[2]
local back = 0
for _, group in ipairs(cmsgpack.unpack(ARGV[3])) do
    local queue, numbers = group[1], group[2]
    local held = P .. 'celeriac.held.' .. id .. '.' .. queue
    table.sort(numbers, function(one, other) return tonumber(one) < tonumber(other) end)
    local freed = {}
    for i = #numbers, 1, -1 do
        local slip = redis.call('HGET', held, numbers[i])
        if slip then
            local step, deliveries, interrupted, _, envelope = read_slip(slip)
            redis.call('HDEL', held, numbers[i])
            redis.call('SREM', P .. 'celeriac.started.' .. id, numbers[i])
            make_ready('RPUSH', queue, step, deliveries, interrupted, now, envelope)
            back, freed[#freed + 1] = back + 1, numbers[i]
            if #freed == 1000 then
                free(id, freed, now)
                freed = {}
            end
        end
    end
    free(id, freed, now)
end
return back
