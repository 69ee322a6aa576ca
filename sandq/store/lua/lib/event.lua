-- What everybody may listen to: the queue's event stream. Fields and their order are BullMQ's; the first is `event`.
-- uses: queue
--   emit(q, field, value, ...)          an entry that never trims the stream
--   emit_capped(q, field, value, ...)   an entry that lets Redis trim the stream to about meta's opts.maxLenEvents
--   trim_events(q)                      the trim alone

local EVENTS_DEFAULT = '10000'

local function events_limit(q)
  local limit = redis.call('HGET', q.meta, 'opts.maxLenEvents')
  if limit and tonumber(limit) then return limit end
  redis.call('HSET', q.meta, 'opts.maxLenEvents', EVENTS_DEFAULT)
  return EVENTS_DEFAULT
end

local function emit(q, ...)
  redis.call('XADD', q.events, '*', ...)
end

local function emit_capped(q, ...)
  redis.call('XADD', q.events, 'MAXLEN', '~', events_limit(q), '*', ...)
end

local function trim_events(q)
  redis.call('XTRIM', q.events, 'MAXLEN', '~', events_limit(q))
end

