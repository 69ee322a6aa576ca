-- How many jobs completed and failed in each minute, for whoever asked to have that counted.
-- uses: queue
--   check_metrics(q)                      raises WRONGTYPE before anything was written
--   count_metrics(q, to, points, now)     one more ended as `to`; the newest `points` minutes are kept

local function check_metrics(q)
  if q.metrics_checked then return end
  for _, to in ipairs({'completed', 'failed'}) do
    redis.call('HLEN', q.base .. 'metrics:' .. to)
    redis.call('LLEN', q.base .. 'metrics:' .. to .. ':data')
  end
  q.metrics_checked = true -- once for all that end in one call
end

-- Per-minute counts: the figure of the minutes since the last one, then a zero for each minute in between.
local function count_metrics(q, to, points, now)
  local key = q.base .. 'metrics:' .. to
  local before = grow(key, 'count') - 1
  local last = redis.call('HMGET', key, 'prevTS', 'prevCount')
  if not last[1] then
    redis.call('HSET', key, 'prevTS', text(now), 'prevCount', '0')
    return
  end
  local minutes = math.min(math.floor(now / 60000) - math.floor(tonumber(last[1]) / 60000), points)
  if minutes <= 0 then return end
  redis.call('LPUSH', key .. ':data', text(before - (tonumber(last[2] or '') or 0)))
  for _ = 2, minutes do redis.call('LPUSH', key .. ':data', '0') end
  redis.call('LTRIM', key .. ':data', 0, points - 1)
  redis.call('HSET', key, 'prevCount', text(before), 'prevTS', text(now))
end

