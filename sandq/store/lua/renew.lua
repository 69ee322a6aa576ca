-- Renews every lock that still carries our token; passes when Redis is out of memory and repeats without harm.
-- keys: base
-- args: lock_ms held...
--       held: id token id token...
-- uses: queue
-- replies: {token...} of the locks that are no longer ours

local q = queue_keys(base)
redis.call('SCARD', q.stalled)
local lost = {}
for index = held_from, #ARGV, 2 do
  local id, token = ARGV[index], ARGV[index + 1]
  local lock = job_key(q, id) .. ':lock'
  -- pcall: one foreign key must not cost all other jobs their renewal.
  if redis.pcall('GET', lock) == token then
    redis.call('PEXPIRE', lock, lock_ms)
    redis.call('SREM', q.stalled, id)
  else
    lost[#lost + 1] = token
  end
end
return lost
