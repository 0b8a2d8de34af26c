-- Park what could not be started now for want of a permit. ARGV: now, id, {{queue, {{number, permits}...}}...} (msgpack).
-- Returns a letter for each: 'p' parked, 'l' lost, 'o' there is a permit, and it is held as it was.
local now, id = read_now(ARGV[1]), ARGV[2]
local letters = {}
for _, group in ipairs(cmsgpack.unpack(ARGV[3])) do
    local queue = group[1]
    local held = P .. 'celeriac.held.' .. id .. '.' .. queue
    for _, need in ipairs(group[2]) do
        local number, letter = need[1], 'l'
        local slip = redis.call('HGET', held, number)
        if slip then
            local step, deliveries, interrupted, _, envelope = read_slip(slip)
            local granted = redis.call('HGET', GRANTED_TO, redis.sha1hex(envelope))
            letter = 'o'
            for _, permit in ipairs(need[2]) do
                if not may(permit, queue, granted == permit[1], now, 0) then
                    redis.call('HDEL', held, number)
                    park(queue, step, deliveries, interrupted, now, envelope, permit)
                    letter = 'p'
                    break
                end
            end
        end
        letters[#letters + 1] = letter
    end
end
return table.concat(letters)
