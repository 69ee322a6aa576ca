-- Says which one state a job is in.
-- keys: base
-- args: id
-- uses: queue state
-- replies: completed failed delayed prioritized active waiting waiting-children unknown

local found = find_state(queue_keys(base), id)
return found and found.word or 'unknown'
