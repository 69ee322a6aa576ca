-- Says which one state a job is in.
-- keys: base
-- args: id
-- uses: queue state
-- replies: completed failed delayed prioritized active waiting waiting-children, or of a job that nothing lists:
--          unknown, missing when its hash is gone, too

local q = queue_keys(base)
local found = find_state(q, id)
if found then return found.word end
return redis.call('EXISTS', job_key(q, id)) == 1 and 'unknown' or 'missing'
