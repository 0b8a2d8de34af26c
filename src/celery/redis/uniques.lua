-- Keys that one task holds at a time. Needs slips.lua.
--   celeriac.unique.<key>     string: "<ms> <task>", until when which task holds it
--   celeriac.uniques.<queue>  sorted set: the keys held by tasks of a queue, by when they lapse

local function unique_key(key) return P .. 'celeriac.unique.' .. key end

local function holder_of(key, now)
    -- The task that holds it; nil if none does.
    local till, task = string.match(redis.call('GET', unique_key(key)) or '', '^(%d+) (.*)$')
    if till and tonumber(till) > now then return task end
end

local function free_unique(queue, key, task, now)
    -- It is free, if that task holds it.
    if holder_of(key, now) == task then
        redis.call('DEL', unique_key(key))
        redis.call('ZREM', P .. 'celeriac.uniques.' .. queue, key)
    end
end
