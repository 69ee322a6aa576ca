-- Lets a parent no longer wait for one of its children; the child itself goes on, without a parent.
-- keys: base slot
-- args: op id
-- uses: queue reply parent
-- replies: 'left', 'not-pending' (its parent does not wait for it), 'no-parent', 'missing-parent', 'missing'

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
local job = job_key(q, id)
check_job_types(q, id)
if redis.call('EXISTS', job) == 0 then return 'missing' end
local parent = parent_of(q, id)
if not parent then return 'no-parent' end
check_parent_types(parent)
if redis.call('EXISTS', parent.key) == 0 then return 'missing-parent' end
if redis.call('SISMEMBER', parent.key .. ':dependencies', job) == 0 then return 'not-pending' end

reserve(slot)
detach_child(parent, job)
redis.call('HDEL', job, 'parentKey', 'parent')
return remember(slot, op, 'left')
