-- Store notes, which nobody waits for, plainly. KEYS: theirs. ARGV: their ttl (ms), and the value of each.

for number, key in ipairs(KEYS) do
  keep(key, ARGV[number + 1], ARGV[1])
end
