-- A consumer goes. ARGV: now, id. How many messages it gave back.
local count = leave(ARGV[2], read_now(ARGV[1]))
write_slots()
return count
