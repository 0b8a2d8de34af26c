-- Park what could not be started now for want of a permit. ARGV: now, id, {{queue, {number...}, whether some may be started
-- already, permits}...} (msgpack).
-- Returns a letter for each: 'p' parked, 'l' lost, 'o' there is a permit, and it is held as it was.
local now, id = read_now(ARGV[1]), ARGV[2]
local letters = {}
for _, group in ipairs(cmsgpack.unpack(ARGV[3])) do
    local queue = group[1]
    local held = P .. 'celeriac.held.' .. id .. '.' .. queue
    for _, number in ipairs(group[2]) do
        local letter = 'l'
        local slip = redis.call('HGET', held, number)
        if slip and group[3] and redis.call('SISMEMBER', P .. 'celeriac.started.' .. id, number) == 1 then
            letter = 'o'
        elseif slip then
            local step, deliveries, interrupted, _, envelope = read_slip(slip)
            local granted = redis.call('HGET', GRANTED_TO, redis.sha1hex(envelope))
            local permit = lacking(group[4], queue, granted, now)
            letter = permit and 'p' or 'o'
            if permit then
                redis.call('HDEL', held, number)
                park(queue, step, deliveries, interrupted, now, envelope, permit)
            end
        end
        letters[#letters + 1] = letter
    end
end
write_slots()
return table.concat(letters)
