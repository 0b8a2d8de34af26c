-- A consumer goes. ARGV: now, id. How many messages it gave back.
return leave(ARGV[2], read_now(ARGV[1]))
