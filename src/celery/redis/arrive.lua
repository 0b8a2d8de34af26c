-- Record parts of joins. ARGV: of each part its group, index, value, size, and 1 if it only makes the join wait for more.
-- Returns a text with a 1 or 0 for each: whether it completes its join.

local completed = {}
for at = 1, #ARGV, 5 do
  local completes = arrive(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4] == "1")
  completed[#completed + 1] = completes and "1" or "0"
end
return table.concat(completed)
