-- Deletes the jobs of one place that wait to run, next in line first; looks at `limit` of them at most.
-- keys: base slot
-- args: op place after limit
-- uses: queue reply walk discard state
-- replies: {word, count, after}: 'ok' none are left, or 'more': call again with this `after`; count: jobs deleted
-- `after` is '' in the first call. The next run of a schedule stays: without it the schedule would end.

local stored = replay(slot, op)
if stored then return stored end

local q = queue_keys(base)
check_types(q)
local from = place_of(place)
local ids = ids_after(q, from, after, tonumber(limit))
check_discard(q, ids)

local count, kept = 0, after
for _, id in ipairs(ids) do
  if is_next_iteration(q, id) then
    kept = id
  else
    take_first_out(q, from, id)
    count = count + discard(q, id, true)
  end
end
return remember(slot, op, {#ids < tonumber(limit) and 'ok' or 'more', text(count), kept})
