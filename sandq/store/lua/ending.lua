-- Says how a job ended, with its value or reason.
-- keys: base
-- args: id
-- uses: queue
-- replies: {completed, returnvalue} {failed, reason} {pending} {missing}

local q = queue_keys(base)
local key = job_key(q, id)
if redis.call('EXISTS', key) == 0 then
  return {'missing'}
end
if redis.call('ZSCORE', q.completed, id) then
  return {'completed', redis.call('HGET', key, 'returnvalue') or 'null'}
end
if redis.call('ZSCORE', q.failed, id) then
  return {'failed', redis.call('HGET', key, 'failedReason') or ''}
end
return {'pending'}
