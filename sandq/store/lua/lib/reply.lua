-- A repeated call gets its first answer. One stored reply per connection slot, ids and words only.
--   replay(slot, op) -> reply | nil   what this very op answered before
--   answered(stored, op) -> reply | nil   the same for who has read the slot himself
--   remember(slot, op, reply)         stores and returns it; the script's LAST write
--   reserve(slot)                     a write of nothing, which Redis refuses all the same when it is out of memory: as
--                                     FIRST write it makes the whole script refuse before anything changed (a later
--                                     write is never refused)
--   can_reserve(slot) -> boolean      the same as a question: a refusal is an answer, not an error
-- A reply that changed nothing need not be remembered: asking again is then as good.
-- No nil and no false inside a reply.

local SLOT_MS = '60000'

-- It is nearly always the reply of the call before, and to unpack that costs more than to look for the op.
local function answered(stored, op)
  if not stored or not string.find(stored, op, 1, true) then return nil end
  local entry = cmsgpack.unpack(stored)
  if entry[1] ~= op then return nil end
  return entry[2]
end

local function replay(slot, op)
  return answered(redis.call('GET', slot), op)
end

local function remember(slot, op, reply)
  redis.call('SET', slot, cmsgpack.pack({op, reply}), 'PX', SLOT_MS)
  return reply
end

local function reserve(slot)
  redis.call('SETRANGE', slot, '0', '')
end

local function can_reserve(slot)
  local answer = redis.pcall('SETRANGE', slot, '0', '')
  return not (type(answer) == 'table' and answer.err)
end

