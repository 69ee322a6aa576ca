-- What everybody may listen to: the queue's event stream. Fields and their order are BullMQ's; the first is `event`.
-- uses: core
--   emit(q, field, value, ...)          an entry that never trims the stream
--   emit_capped(q, field, value, ...)   an entry that lets Redis trim the stream to about meta's opts.maxLenEvents
--   trim_events(q)                      the trim alone
--   mark(q)                             wakes an idle worker: "there may be a job to take"; once in a script, and not
--                                       when q.marked says that the mark is there

local EVENTS_DEFAULT = '10000'

local function events_limit(q)
  local meta = meta_of(q)
  if not tonumber(meta.events_limit) then
    redis.call('HSET', q.meta, 'opts.maxLenEvents', EVENTS_DEFAULT)
    meta.events_limit = EVENTS_DEFAULT
  end
  return meta.events_limit
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

local function mark(q)
  if not q.marked then redis.call('ZADD', q.marker, '0', '0') end
  q.marked = true
end

