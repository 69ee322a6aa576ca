-- Requests to end a running job, read by its supervisor once a second. One hash per queue: id -> token\nreason.
-- uses: queue
--   request_cancel(q, id, token, reason)   asks whoever holds this token; a later holder is not meant
--   is_cancelled(q, id, token)             whether this holder was asked to end it
--   forget_cancel(q, id)                   the attempt ended, the request with it
-- The whole hash expires a day after the last request, so nothing is left behind by jobs that vanished.

local CANCEL_MS = 86400000

local function request_cancel(q, id, token, reason)
  redis.call('HSET', q.cancels, id, token .. '\n' .. reason)
  redis.call('PEXPIRE', q.cancels, CANCEL_MS)
end

local function is_cancelled(q, id, token)
  local request = redis.call('HGET', q.cancels, id)
  return request ~= false and string.sub(request, 1, #token + 1) == token .. '\n'
end

local function forget_cancel(q, id)
  if not q.none_cancelled then redis.call('HDEL', q.cancels, id) end
end

