-- Counts the delayed jobs that are due within some time from now.
-- keys: base
-- args: within_ms
-- uses: queue event place
-- replies: a number

local q = queue_keys(base)
return redis.call('ZCOUNT', q.delayed, '-inf', (now_ms() + tonumber(within_ms) + 1) * TIES - 1)
