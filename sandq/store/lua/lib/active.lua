-- Who is in the active list, asked for each of many jobs.
-- uses: core
--   read_active(q, asked)   for about so many questions: reads the list once if it is short, where each question of its
--                           own would cost more; reads only, and raises WRONGTYPE when active is no list
--   is_active(q, id)        the id is in the list
--   note_active(q, id, by)  the script has just put it there (1), or taken it out (-1)

local WORTH = 16 -- entries that cost as much to read as one question

local function read_active(q, asked)
  local most = asked * WORTH
  local ids = redis.call('LRANGE', q.active, 0, most)
  if #ids > most then return end
  q.running = {}
  for _, id in ipairs(ids) do q.running[id] = (q.running[id] or 0) + 1 end
end

local function is_active(q, id)
  if q.running then return (q.running[id] or 0) > 0 end
  return redis.call('LPOS', q.active, id) ~= false
end

local function note_active(q, id, by)
  if q.running then q.running[id] = (q.running[id] or 0) + by end
end

