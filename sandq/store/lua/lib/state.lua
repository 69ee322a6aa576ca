-- Where a job is: the list or sorted set that holds its id. There is no state field.
-- uses: queue
--   find_state(q, id) -> state | nil   the entry of STATES that holds the id
--   take_out(q, state, id)             takes the id out of there
--   event_word(state)                  its name in the `prev` of a `removed` event
--   is_next_iteration(q, id)           a scheduler counts on this job: claiming it makes the one after it

-- In the order in which BullMQ looks them up; `word` is the state's name, `key` names it in queue_keys.
local STATES = {
  {word = 'completed', key = 'completed', kind = 'zset'},
  {word = 'failed', key = 'failed', kind = 'zset'},
  {word = 'delayed', key = 'delayed', kind = 'zset'},
  {word = 'prioritized', key = 'prioritized', kind = 'zset'},
  {word = 'active', key = 'active', kind = 'list'},
  {word = 'waiting', key = 'wait', kind = 'list'},
  -- Where BullMQ 5 hid the waiting jobs of a paused queue; resume brings them back.
  {word = 'waiting', key = 'paused', kind = 'list'},
  {word = 'waiting-children', key = 'waiting_children', kind = 'zset'},
}

local function find_state(q, id)
  for _, state in ipairs(STATES) do
    if redis.call(state.kind == 'list' and 'LPOS' or 'ZSCORE', q[state.key], id) then return state end
  end
  return nil
end

local function take_out(q, state, id)
  if state.kind == 'list' then
    redis.call('LREM', q[state.key], 0, id)
  else
    redis.call('ZREM', q[state.key], id)
  end
end

local function event_word(state)
  if not state then return 'unknown' end
  return state.kind == 'list' and state.key or state.word
end

local function is_next_iteration(q, id)
  local scheduler = redis.call('HGET', job_key(q, id), 'rjk')
  local due = scheduler and redis.call('ZSCORE', q.schedulers, scheduler)
  return due and id == 'repeat:' .. scheduler .. ':' .. text(tonumber(due)) or false
end
