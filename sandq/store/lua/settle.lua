-- Writes what became of attempts, each all of it or nothing, and claims the next jobs if tokens are given.
-- keys: base slot
-- args: op lock_ms worker limiter_max limiter_ms max_data at_once keep_completed keep_failed points count rest...
--       keep_completed, keep_failed, points: the supervisor's retention and metrics, see lib/finish.lua
--       rest: `count` settlements (some hundred at most), then the tokens of the next claim (see lib/take.lua)
--       a settlement: id token to value more; to: completed failed wait delayed waiting-children; value: the result, or
--       the reason or ''; more: JSON {front, spends, counts, stacktrace, delay_ms, limit_ms, death}, texts, those that
--       are to be written; '' for none
-- uses: core reply event finish take active cancel leaving
-- seldom: queue place create parent dedup others metrics keep limiter oversize cancel leaving
-- replies: {word...} or {word..., claimed...}, claimed as claim.lua replies; one word for each settlement, in their order:
--          'ok'; 'missing' (its hash is gone; the lock is given up); with nothing changed
--          'lost' 'not-active' 'pending-children' 'failed-children' 'nothing-to-wait-for' 'cancel-requested'
-- When no settlement changed anything, nothing is claimed either.

local WIDTH = 5

local q = queue_keys(base)
local rule = claim_rule(lock_ms, worker, limiter_max, limiter_ms, max_data, at_once)
local tokens_from = rest_from + tonumber(count) * WIDTH

local function settlements()
  local given = {}
  for at = rest_from, tokens_from - 1, WIDTH do
    local id, to, job = ARGV[at], ARGV[at + 2], job_key(q, ARGV[at])
    local s = {
      id = id, token = ARGV[at + 1], to = to, value = ARGV[at + 3], job = job, lock = job .. ':lock', facts = false,
      terminal = to == 'completed' or to == 'failed',
    }
    if ARGV[at + 4] ~= '' then
      for name, said in pairs(cjson.decode(ARGV[at + 4])) do s[name] = said end
    end
    given[#given + 1] = s
  end
  return given
end

-- What the slot holds, and then the locks.
local function read_locks(given)
  local keys = {slot}
  for _, s in ipairs(given) do keys[#keys + 1] = s.lock end
  return redis.call('MGET', unpack(keys))
end

-- Whether nothing of all that is there which mostly is not, and whether one of them may have children left to wait for
-- or failed ones.
local function read_unusual(given)
  local keys = {q.stalled, q.cancels, unusual_keys(q)}
  local children_from = #keys + 1
  for index, s in ipairs(given) do
    local at = children_from + 2 * index
    keys[at - 2], keys[at - 1] = s.job .. ':dependencies', s.job .. ':unsuccessful'
  end
  local none = redis.call('EXISTS', unpack(keys)) == 0
  return none, not none and redis.call('EXISTS', unpack(keys, children_from)) > 0
end

local function word_for(s, lock, has_children)
  if lock ~= s.token then return 'lost' end
  s.facts = read_facts(q, s.id) or false
  if not s.facts then return 'missing' end
  if not is_active(q, s.id) then return 'not-active' end
  if has_children or s.terminal then return 'ok' end
  return refusal_of(q, s) or 'ok'
end

-- Reads only: everything is checked before the first write, since scripts do not roll back. What nearly all are, the end
-- of a job that concerns no other one, writes to few keys.
local function check(written, none_unusual, has_children)
  local simple = not has_children
  for _, s in ipairs(written) do
    simple = simple and (not s.facts or (s.terminal and not s.limit_ms and is_plain(s.facts)))
  end
  if points ~= '0' then check_metrics(q) end
  if simple then
    check_take(q, none_unusual)
    q.none_stalled = none_unusual or redis.call('SCARD', q.stalled) == 0
    q.none_cancelled = none_unusual or redis.call('HLEN', q.cancels) == 0
    for _, s in ipairs(written) do
      if s.terminal then count_finished(q, q[s.to]) end
    end
    return
  end
  check_types(q)
  for _, s in ipairs(written) do
    check_job_types(q, s.id)
    if s.facts and s.terminal then check_others(q, s.facts) end
  end
end

-- The DEL of the locks comes first: it passes when Redis is out of memory, and then everything does.
local function give_up(written)
  local ids, locks = {}, {}
  for index, s in ipairs(written) do ids[index], locks[index] = s.id, s.lock end
  redis.call('DEL', unpack(locks))
  if not q.none_stalled then redis.call('SREM', q.stalled, unpack(ids)) end
  for _, id in ipairs(ids) do
    redis.call('LREM', q.active, '-1', id)
    note_active(q, id, -1)
  end
end

local function write(s)
  if not q.none_cancelled then
    forget_cancel(q, s.id)
  end
  if s.limit_ms then redis.call('SET', q.limiter, '9007199254740991', 'PX', s.limit_ms) end -- as if set by hand
  if not s.terminal then
    write_attempt(s)
    return put_back(q, s, rule.now)
  end
  if s.stacktrace then redis.call('HSET', s.job, 'stacktrace', s.stacktrace) end
  finish_one(q, s.id, s.facts, {
    to = s.to, value = s.value, now = rule.now, prev = 'active', points = tonumber(points),
    keep = s.to == 'completed' and keep_completed or keep_failed, death = s.death or '',
  })
end

-- Parents and their children may be among them: what one may do hangs on what became of those before it. All types are
-- checked by now, so each can be answered for when its turn comes.
local function write_in_turn(given, words)
  for index, s in ipairs(given) do
    if words[index] == 'ok' then words[index] = refusal_of(q, s) or 'ok' end
    if words[index] == 'ok' or words[index] == 'missing' then
      give_up({s})
      if words[index] == 'ok' then write(s) end
      keep_finished(q, rule.now)
    end
  end
end

local function claim_next(ended, tokens)
  local taken, jobs = {'empty', -1}, nil
  if tokens[1] then taken, jobs = take(q, rule, tokens) end
  -- One that found a job, a limit, a pause or a delayed job says that the queue has not run dry.
  if ended and taken[1] == 'empty' and taken[2] == -1 and not taken[3] and redis.call('LLEN', q.wait) == 0
    and redis.call('LLEN', q.active) == 0 and redis.call('ZCARD', q.prioritized) == 0 then
    emit(q, 'event', 'drained')
  end
  return taken, jobs
end

local function show(settled, jobs)
  if #ARGV < tokens_from or not settled[2] then return settled[1] end
  return show_taken(q, settled[2], rule, jobs, settled[1])
end

local given, words, written = settlements(), {}, {}
local found = read_locks(given)
local settled = answered(found[1], op)
if settled then return show(settled) end
local tokens = arguments(tokens_from)
read_active(q, #given + #tokens)
local none_unusual, has_children = read_unusual(given)
for index, s in ipairs(given) do
  local word = word_for(s, found[index + 1], has_children)
  words[index] = word
  if word == 'ok' or word == 'missing' then written[#written + 1] = s end
end
if not written[1] then return words end
check(written, none_unusual, has_children)
-- Claiming is what pauses when Redis is out of memory. The settlements pass: their first write is a DEL.
if tokens[1] and not can_reserve(slot) then tokens = {} end
if has_children then
  write_in_turn(given, words)
else
  give_up(written)
  for _, s in ipairs(written) do
    if s.facts then write(s) end
  end
  keep_finished(q, rule.now)
end
local changed, ended = false, false
for index, s in ipairs(given) do
  local word = words[index]
  changed = changed or word == 'ok' or word == 'missing'
  ended = ended or word == 'missing' or (word == 'ok' and s.terminal)
end
if not changed then return words end
local taken, jobs = claim_next(ended, tokens)
return show(remember(slot, op, {words, taken}), jobs)
