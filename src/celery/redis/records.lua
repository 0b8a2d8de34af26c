-- Results and joins on the selected database, as the store's scripts and the broker's settlement write them.
-- `wire/message.py` (Record, Arrival) has the rules. A result is under Celery's key, as Celery writes it. How final it
-- is stands at its beginning; where it does not (compressed), and of FAILURE and REVOKED the writer, stands in a
-- companion key: a digit, and the writer.

local FINAL = {SUCCESS = 2, FAILURE = 1, REVOKED = 1}
local JOIN_KEPT = 86400000  -- ms a completed join is kept, so that a late copy of one of its parts is recognised

local function companion_of(prefix, key)
  return prefix .. "celeriac.final." .. key
end

-- SET for *ttl* milliseconds (text), or ("0") for ever.
local function keep(key, value, ttl)
  if ttl ~= "0" then
    return redis.call("SET", key, value, "PX", ttl)
  end
  return redis.call("SET", key, value)
end

-- The same, only if the key is absent: false if it is not.
local function keep_new(key, value, ttl)
  if ttl ~= "0" then
    return redis.call("SET", key, value, "PX", ttl, "NX")
  end
  return redis.call("SET", key, value, "NX")
end

-- How final the value is that begins with *head* (JSON or msgpack, "status" first); nil where it does not say.
local function finality(head)
  local state = string.match(head, '^{"status": ?"([^"]*)"')
    or string.match(head, "^[\129-\143]\166status[\161-\191](%u+)")
  return state and (FINAL[state] or 0)
end

-- Why results cannot be put under these keys (a table of at most 7,000), nil if they can. Ask before the first write:
-- a script that fails half way is not rolled back.
local function record_trouble(keys)
  if #keys == 0 or redis.call("EXISTS", unpack(keys)) == 0 then
    return nil
  end
  for _, key in ipairs(keys) do
    local kind = redis.call("TYPE", key).ok
    if kind ~= "none" and kind ~= "string" then
      return "the key " .. key .. " holds a " .. kind .. ", not a result: delete it, or choose another"
        .. " global_keyprefix for the results"
    end
  end
end

-- Store and announce a result unless an earlier terminal state stays; whether it is stored. Safe to repeat: what is
-- there already counts as stored. *ttl*: see `keep`.
local function put_record(prefix, key, value, state, writer, ttl)
  local absent = keep_new(key, value, ttl)
  if absent and state == "SUCCESS" and string.sub(value, 1, 19) == '{"status":"SUCCESS"' then
    redis.call("PUBLISH", key, value) -- nearly every result, in as few steps as it can have
    return true
  end
  local final, companion, known = FINAL[state] or 0, companion_of(prefix, key), false
  if not absent then
    local old, by = finality(redis.call("GETRANGE", key, 0, 63)), nil
    if old == nil or old == 1 then
      known = redis.call("GET", companion)
      if known then
        old, by = old or tonumber(string.sub(known, 1, 1)), string.sub(known, 2)
      end
    end
    if old == 2 or (old == 1 and (final == 0 or by == writer)) then
      return redis.call("STRLEN", key) == #value and redis.call("GET", key) == value
    end
    keep(key, value, ttl)
  end
  local says = finality(string.sub(value, 1, 64))
  if final == 1 or (final == 2 and says ~= 2) then
    keep(companion, final .. writer, ttl)
  elseif known or says == nil then
    redis.call("DEL", companion)
  end
  redis.call("PUBLISH", key, value)
  return true
end

-- Record a part of the join under *group*, with the keys that workers of original Celery use for the same join:
--   <group>j  sorted set of the values by place          <group>s  how many parts, if it was told (*size*: 0 if it was not)
--   <group>d  set of the indices that have arrived        <group>t  how many more it waits for
--   <group>c  who has it in hand since it is complete: ours is "celeriac " and the index of the part that completed it
-- Returns true for the part that completes it, also when that is repeated. Theirs end after a day; as long as the join
-- is not complete, ours make that undone.
local function arrive(group, index, value, size, grows)
  local hand = redis.call("GET", group .. "c")
  if hand then
    return hand == "celeriac " .. index
  end
  if redis.call("SADD", group .. "d", index) == 1 then
    if grows then
      redis.call("INCR", group .. "t")
    else
      redis.call("ZADD", group .. "j", string.match(index, ":(%d+)$") or "+inf", value)
    end
    if redis.call("PTTL", group .. "s") > 0 then
      for _, key in ipairs({"j", "d", "s", "t"}) do redis.call("PERSIST", group .. key) end
    end
  end
  local expected = tonumber(redis.call("GET", group .. "s") or size)
  if grows or expected == 0
    or redis.call("ZCARD", group .. "j") < expected + tonumber(redis.call("GET", group .. "t") or 0) then
    return false
  end
  redis.call("SET", group .. "c", "celeriac " .. index, "PX", JOIN_KEPT)
  for _, key in ipairs({"j", "d", "s", "t"}) do redis.call("PEXPIRE", group .. key, JOIN_KEPT) end
  return true
end
