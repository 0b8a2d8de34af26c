-- Advance entries of a schedule book and send their messages; all under the lease. Needs sending.lua.
-- ARGV: now, what the keys of the book begin with, token, for how long the lease is kept (ms), lines of history kept,
-- entries (msgpack: {{name, old state, new state, note, a plan}...}), the envelopes that the plans count on, in order.
-- Returns a text with a 1 or 0 for each: whether it is in its new state. Nothing if the lease is lost.
local now, book, lease = read_now(ARGV[1]), ARGV[2], ARGV[2] .. 'lease'
local held = redis.call('HMGET', lease, 'token', 'until')
if held[1] ~= ARGV[3] or tonumber(held[2] or 0) <= now then return false end
local entries = cmsgpack.unpack(ARGV[6])
for _, entry in ipairs(entries) do
    local trouble = plan_trouble(entry[5])
    if trouble then return trouble end
end
redis.call('HSET', lease, 'until', now + tonumber(ARGV[4]))
local done, first = {}, 7
for i, entry in ipairs(entries) do
    local name, old, new, note, plan = entry[1], entry[2], entry[3], entry[4], entry[5]
    local state = redis.call('HGET', book .. 'states', name) or ''
    if state == old then
        redis.call('HSET', book .. 'states', name, new)
        if note ~= '' then
            redis.call('LPUSH', book .. 'history.' .. name, note)
            redis.call('LTRIM', book .. 'history.' .. name, 0, tonumber(ARGV[5]) - 1)
        end
        send_plan(plan, now, first)
    end
    first = first + #plan
    done[i] = (state == old or state == new) and '1' or '0'
end
return table.concat(done)
