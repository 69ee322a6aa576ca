-- Claims up to one job per token, with lock, fence and start time written; also promotes what is due.
-- keys: base slot
-- args: op lock_ms worker limiter_max limiter_ms max_data tokens...
-- uses: queue reply take
-- replies: {why, wait_ms, job...}; why '' | 'empty' | 'paused' | 'limited' | 'full'; see lib/take.lua

local q = queue_keys(base)
local taken = replay(slot, op)
if not taken then
  check_types(q)
  reserve(slot)
  local rule = claim_rule(now_ms(), lock_ms, worker, limiter_max, limiter_ms)
  taken = remember(slot, op, take(q, rule, arguments(tokens_from)))
end
return show_taken(q, taken, tonumber(max_data))
