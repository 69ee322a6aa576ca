-- The end of a job, completed or failed, wherever it was: everything a worker owes the queue at that moment.
-- uses: core event parent metrics keep others
--   read_facts(q, id) -> facts | nil   reads only; nil when there is no such hash
--   is_plain(facts)               no other job hears of this end: neither a parent nor one that was deduplicated
--   read_finish(q, id) -> facts | nil   read_facts, and check_others, which is_plain(facts) can do without
--   finish(q, id, facts, how)     how = {to = 'completed' | 'failed', value, now, prev, keep, points, death}
--       value   the returnvalue (JSON text) or the failed reason (raw text)
--       prev    the state the job is taken from, for the event; taking it out of there is the caller's
--       keep    the supervisor's retention: JSON {count, age (s), limit}, or '' for the default; the job's option wins
--       points  metrics data points, 0 for none            death   death certificate (JSON), or ''
--   finish_one(q, id, facts, how)   the same for one of several, without what is done once for all of them:
--   keep_finished(q, now)           puts them with those that ended before, and deletes what is beyond its retention
--   count_finished(q, set)          how many these are; asked before the first write it raises WRONGTYPE, and spares
--                                   keep_finished the question

local OF_ATTEMPTS = {'sq_death', 'sq_crashes', 'sq_interruptions', 'sq_unknown'} -- an end clears them
local OLDEST = 1000 -- deleted in one call, at most, so that a first trim of a long history cannot hold Redis up
local AT_ONCE = 200 -- jobs of one command: unpack takes no more than some thousand values

local function read_facts(q, id)
  local job = job_key(q, id)
  local fields = redis.call('HMGET', job, 'opts', 'atm', 'deid', 'parentKey', 'parent', unpack(OF_ATTEMPTS))
  if not fields[1] and redis.call('EXISTS', job) == 0 then return nil end
  local facts = {
    opts = decode(fields[1]), made = tonumber(fields[2] or '') or 0, deid = fields[3],
    spent = fields[6] or fields[7] or fields[8] or fields[9],
  }
  if fields[4] or fields[5] then
    facts.parent = parent_from(fields[4], fields[5])
  end
  return facts
end

local function is_plain(facts)
  return not facts.parent and not facts.deid
end

local function read_finish(q, id)
  local facts = read_facts(q, id)
  if facts then check_others(q, facts) end
  return facts
end

-- One and the same table for all jobs without an option of their own. Another team's history is not ours to trim.
local function common_keep(q, how)
  q.keeps = q.keeps or {}
  local name = how.to .. how.keep
  local keep = q.keeps[name]
  if not keep and how.keep ~= '' then
    keep = as_keep(decode(how.keep))
  elseif not keep then
    keep = how.to == 'completed' and {count = 1000, age = 86400} or {count = -1, age = 604800}
    if string.sub(meta_of(q).version, 1, 7) == 'bullmq:' then keep = {count = -1} end
  end
  q.keeps[name] = keep
  return keep
end

local function retention(q, facts, how)
  local option = facts.opts.removeOnComplete
  if how.to == 'failed' then option = facts.opts.removeOnFail end
  if option == nil then return common_keep(q, how) end
  return as_keep(option) or common_keep(q, how)
end

-- A key of a foreign type is left alone: nothing says that it is the job's.
local function erase(q, ids)
  local jobs = {}
  for _, id in ipairs(ids) do
    local fields = redis.pcall('HMGET', job_key(q, id), 'parentKey', 'parent')
    if fields[1] or fields[2] then
      local parent = parent_from(fields[1], fields[2])
      -- A parent's key of a foreign type must not stop the deletion of a job half way.
      if parent then pcall(detach_child, parent, job_key(q, id)) end
    end
    if not fields.err then jobs[#jobs + 1] = id end
  end
  if jobs[1] then delete_jobs(q, jobs) end
end

local function count_finished(q, set)
  local counts = q.counts or {}
  q.counts = counts
  counts[set] = counts[set] or redis.call('ZCARD', set)
  return counts[set]
end

local function erase_from(q, set, ids)
  q.counts[set] = nil
  for first = 1, #ids, AT_ONCE do
    local some = {unpack(ids, first, math.min(first + AT_ONCE - 1, #ids))}
    erase(q, some)
    redis.call('ZREM', set, unpack(some))
  end
end

-- The oldest that are more than `keep` counts, and when the oldest of all ended.
local function read_excess(q, keep)
  local excess = keep.count > 0 and math.min(count_finished(q, keep.set) - keep.count, OLDEST) or 0
  if excess < 1 and not keep.age then return {} end
  local found, ids = redis.call('ZRANGE', keep.set, '0', excess > 1 and excess - 1 or '0', 'WITHSCORES'), {}
  for n = 1, excess do ids[n] = found[2 * n - 1] end
  return ids, tonumber(found[2])
end

local function trim_finished(q, keep, now)
  local set, excess, oldest = keep.set, read_excess(q, keep)
  local end_of_age = keep.age and now - keep.age * 1000
  if keep.age and oldest and oldest <= end_of_age then
    local limit = keep.limit or OLDEST
    limit = math.max(limit, math.min(limit * #keep.scored / 2, OLDEST)) -- for each of those that came in
    erase_from(q, set, redis.call('ZREVRANGEBYSCORE', set, text(end_of_age), '0', 'LIMIT', '0', limit))
    excess = read_excess(q, keep)
  end
  if excess[1] then erase_from(q, set, excess) end
end

local function keep_finished(q, now)
  local ended = q.finished or {}
  for _, keep in ipairs(ended) do
    local before = count_finished(q, keep.set)
    q.counts[keep.set] = before + redis.call('ZADD', keep.set, unpack(keep.scored))
  end
  for _, keep in ipairs(ended) do trim_finished(q, keep, now) end
  for _, keep in ipairs(ended) do keep.scored = nil end
  q.finished, q.counts = nil, nil
end

-- Until keep_finished, those that ended in this call hang in what keeps them.
local function note_end(q, id, how, keep)
  local scored, now = keep.scored, text(how.now)
  if scored then
    scored[#scored + 1] = now
    scored[#scored + 1] = id
    return
  end
  keep.set, keep.scored = q[how.to], {now, id}
  q.finished = q.finished or {}
  q.finished[#q.finished + 1] = keep
end

local function write_end(q, id, facts, how, keep)
  local job, now = job_key(q, id), text(how.now)
  -- A certificate of an earlier attempt would explain the wrong end.
  if facts.spent then redis.call('HDEL', job, unpack(OF_ATTEMPTS)) end
  if how.to == 'failed' then redis.call('HDEL', job, 'defa') end
  local field = how.to == 'completed' and 'returnvalue' or 'failedReason'
  redis.call('HSET', job, field, how.value, 'finishedOn', now, 'atm', facts.made == 0 and '1' or text(facts.made + 1))
  if how.death ~= '' then redis.call('HSET', job, 'sq_death', how.death) end
  note_end(q, id, how, keep)
end

-- The first of a call lets Redis trim the stream.
local function emit_end(q, id, facts, how)
  local tell = q.trimmed and emit or emit_capped
  q.trimmed = true
  if how.to == 'completed' then
    tell(q, 'event', 'completed', 'jobId', id, 'returnvalue', how.value, 'prev', how.prev)
    return
  end
  tell(q, 'event', 'failed', 'jobId', id, 'failedReason', how.value, 'prev', how.prev)
  local made = facts.made + 1
  if made >= (tonumber(facts.opts.attempts) or 0) then
    emit(q, 'event', 'retries-exhausted', 'jobId', id, 'attemptsMade', text(made))
  end
end

local function finish_one(q, id, facts, how)
  if not is_plain(facts) then tell_others(q, id, facts, how) end
  local keep = retention(q, facts, how)
  if keep.count == 0 then
    erase(q, {id})
  else
    write_end(q, id, facts, how, keep)
  end
  emit_end(q, id, facts, how)
  if how.points > 0 then count_metrics(q, how.to, how.points, how.now) end
end

local function finish(q, id, facts, how)
  finish_one(q, id, facts, how)
  keep_finished(q, how.now)
end
