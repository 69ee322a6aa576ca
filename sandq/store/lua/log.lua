-- Adds lines to a job's log, which keeps as many of its newest as the job's options say, else all.
-- keys: base slot
-- args: op id token lines...
-- uses: queue reply holder
-- replies: 'ok' 'lost' 'missing'

local stored = replay(slot, op)
if stored then return stored end
local q = queue_keys(base)
check_job_types(q, id)
local word = refusal(q, id, token)
if word then return word end

local logs = job_key(q, id) .. ':logs'
local keep = tonumber(decode(redis.call('HGET', job_key(q, id), 'opts')).kl) or 0
for first = lines_from, #ARGV, 1000 do -- as many as unpack() is sure to carry
  redis.call('RPUSH', logs, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if keep >= 1 then redis.call('LTRIM', logs, text(-math.floor(keep)), -1) end
return remember(slot, op, 'ok')
