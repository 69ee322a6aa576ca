-- Whoever writes for a running job proves the job's lock token first.
-- uses: queue
--   holds(q, id, token)          the lock is there and carries this token
--   refusal(q, id, token) -> word | nil   'lost' | 'missing'; the token '' is an operator's, who needs no lock

local function holds(q, id, token)
  return redis.call('GET', job_key(q, id) .. ':lock') == token
end

local function refusal(q, id, token)
  if token ~= '' and not holds(q, id, token) then return 'lost' end
  if redis.call('EXISTS', job_key(q, id)) == 0 then return 'missing' end
  return nil
end
