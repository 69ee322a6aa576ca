-- Claims up to one job per token, with lock, fence and start time written; also promotes what is due.
-- keys: base slot
-- args: op lock_ms worker limiter_max limiter_ms max_data at_once tokens...
-- uses: core reply take active
-- seldom: queue place limiter oversize
-- replies: {why, wait_ms, id, token, size, fields...}; why '' | 'empty' | 'paused' | 'limited' | 'full'; see lib/take.lua

local q = queue_keys(base)
local rule = claim_rule(lock_ms, worker, limiter_max, limiter_ms, max_data, at_once)
local taken, jobs = replay(slot, op), nil
if not taken then
  local tokens = arguments(tokens_from)
  check_take(q, redis.call('EXISTS', unusual_keys(q)) == 0)
  read_active(q, #tokens)
  reserve(slot)
  taken, jobs = take(q, rule, tokens)
  remember(slot, op, taken)
end
return show_taken(q, taken, rule, jobs, {})
