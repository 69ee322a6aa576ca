-- The other jobs that hear of a job's end: its parent, and one that was deduplicated while it ran.
-- uses: queue parent dedup metrics
--   check_others(q, facts)             raises WRONGTYPE before anything was written; also for what counts the ends
--   tell_others(q, id, facts, how)     see finish

local function check_others(q, facts)
  if facts.parent then check_parent_types(facts.parent) end
  if facts.deid then
    redis.call('STRLEN', dedup_key(q, facts.deid))
    redis.call('HLEN', next_key(q, facts.deid))
  end
  check_metrics(q)
end

local function tell_others(q, id, facts, how)
  if facts.deid then
    release_dedup(q, id, facts.deid)
    requeue_next(q, facts.deid, how.now)
  end
  if not facts.parent then return end
  local tell = how.to == 'completed' and child_completed or child_failed
  tell(facts.parent, job_key(q, id), how.value, how.now)
end

